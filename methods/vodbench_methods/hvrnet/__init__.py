"""Hierarchical Video Relation Network (Han et al., ECCV 2020): ``hvrnet``."""
