"""The row of the METHODS table."""

from __future__ import annotations

from vodbench_methods.propagation.optical_flow import propagation_method
from vodbench_methods.thp.config import SMALL, TINY, THPConfig
from vodbench_methods.thp.model import THP

SPEC = propagation_method(
    "thp",
    THP,
    THPConfig,
    summary="recursive aggregation over key frames, partial updating between them, adaptive key frames",
    paper="Zhu et al., Towards High Performance Video Object Detection, CVPR 2018",
    presets={"paper": {}, "small": SMALL, "tiny": TINY, "deformable": {"deformable": "dcn", "pooling": "deformable"}},
)
