"""Sequence Level Semantics Aggregation (Wu et al., ICCV 2019): ``selsa``."""
