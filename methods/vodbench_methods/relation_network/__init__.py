"""Relation Networks inside one frame (Hu et al., CVPR 2018): ``relation-network``."""
