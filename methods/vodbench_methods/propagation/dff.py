"""Deep Feature Flow (Zhu et al., CVPR 2017): features of sparse key frames, propagated to the frames between.

Detector and flow network are trained together, on a frame and a key frame up to nine frames before it.
"""

from __future__ import annotations

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.propagation.config import SMALL, TINY, KeyFrameConfig
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.propagation.optical_flow import propagation_stages


def _build(config: MethodConfig, num_classes: int) -> FlowDetector:
    assert isinstance(config, KeyFrameConfig)
    return FlowDetector(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, KeyFrameConfig)
    return propagation_stages(config, SPEC.name, config.pairs())


SPEC = MethodSpec(
    name="dff",
    summary="Deep Feature Flow: features of sparse key frames, propagated by flow, trained end to end",
    paper="Zhu et al., Deep Feature Flow for Video Recognition, CVPR 2017",
    config=KeyFrameConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
