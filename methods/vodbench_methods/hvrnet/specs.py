"""The METHODS row of HVR-Net."""

from __future__ import annotations

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.detection.warm_start import relation_stages
from vodbench_methods.hvrnet.config import SMALL, TINY, HVRConfig
from vodbench_methods.hvrnet.model import HVRNet


def _build(config: MethodConfig, num_classes: int) -> HVRNet:
    assert isinstance(config, HVRConfig)
    return HVRNet(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, HVRConfig)
    return relation_stages(config, SPEC.name, config.clips())


SPEC = MethodSpec(
    name="hvrnet",
    summary="HVR-Net: proposals relate within their video, and in training to hard ones of other videos",
    paper="Han et al., Mining Inter-Video Proposal Relations for Video Object Detection, ECCV 2020",
    config=HVRConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
