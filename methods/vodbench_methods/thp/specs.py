"""The row of the METHODS table."""

from __future__ import annotations

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.propagation.optical_flow import propagation_stages
from vodbench_methods.thp.config import SMALL, TINY, THPConfig
from vodbench_methods.thp.model import THP


def _build(config: MethodConfig, num_classes: int) -> THP:
    assert isinstance(config, THPConfig)
    return THP(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, THPConfig)
    return propagation_stages(config, SPEC.name, config.pairs())


SPEC = MethodSpec(
    name="thp",
    summary="recursive aggregation over key frames, partial updating between them, adaptive key frames",
    paper="Zhu et al., Towards High Performance Video Object Detection, CVPR 2018",
    config=THPConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY, "deformable": {"deformable": "dcn", "pooling": "deformable"}},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
