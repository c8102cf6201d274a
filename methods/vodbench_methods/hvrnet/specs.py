"""The METHODS row of HVR-Net."""

from __future__ import annotations

from vodbench_methods.detection.warm_start import relation_method
from vodbench_methods.hvrnet.config import SMALL, TINY, HVRConfig
from vodbench_methods.hvrnet.model import HVRNet

SPEC = relation_method(
    "hvrnet",
    HVRNet,
    HVRConfig,
    summary="HVR-Net: proposals relate within their video, and in training to hard ones of other videos",
    paper="Han et al., Mining Inter-Video Proposal Relations for Video Object Detection, ECCV 2020",
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
)
