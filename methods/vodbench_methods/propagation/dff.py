"""Deep Feature Flow (Zhu et al., CVPR 2017): features of sparse key frames, propagated to the frames between.

Detector and flow network are trained together, on a frame and a key frame up to nine frames before it.
"""

from __future__ import annotations

from vodbench_methods.propagation.config import SMALL, TINY, KeyFrameConfig
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.propagation.optical_flow import propagation_method

SPEC = propagation_method(
    "dff",
    FlowDetector,
    KeyFrameConfig,
    summary="Deep Feature Flow: features of sparse key frames, propagated by flow, trained end to end",
    paper="Zhu et al., Deep Feature Flow for Video Recognition, CVPR 2017",
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
)
