"""Semi-DFF (Han et al., ACM MM 2018): a detector from labels, feature flow from unlabelled video."""
