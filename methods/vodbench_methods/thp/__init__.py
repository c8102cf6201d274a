"""Towards High Performance Video Object Detection (Zhu, Dai, Yuan, Wei, CVPR 2018)."""
