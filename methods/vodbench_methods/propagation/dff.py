"""Deep Feature Flow (Zhu et al., CVPR 2017): features of sparse key frames, propagated to the frames between.

Detector and flow network are trained together, on a frame and a key frame up to nine frames before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.propagation.config import SMALL, TINY, FlowConfig
from vodbench_methods.propagation.model import FlowDetector


@dataclass(frozen=True, kw_only=True)
class DFFConfig(FlowConfig):
    """Nothing of its own."""


def _build(config: MethodConfig, num_classes: int) -> FlowDetector:
    assert isinstance(config, DFFConfig)
    return FlowDetector(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, DFFConfig)
    return (*config.earlier_stages(), config.own_stage("propagation", SPEC.name))


SPEC = MethodSpec(
    name="dff",
    summary="Deep Feature Flow: features of sparse key frames, propagated by flow, trained end to end",
    paper="Zhu et al., Deep Feature Flow for Video Recognition, CVPR 2017",
    config=DFFConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
