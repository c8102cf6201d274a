"""What methods that propagate features have in common: a detector, a flow network, and when a frame is a key frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.knobs import knob
from vodbench.spec import ClipSpec, Schedule, Stage
from vodbench_methods.detection import faster_rcnn
from vodbench_methods.detection.warm_start import WarmStartConfig, narrowed
from vodbench_methods.rfcn import model as rfcn
from vodbench_methods.rfcn.config import RFCNConfig

DETECTORS = {"r-fcn": rfcn.SPEC, "faster-rcnn": faster_rcnn.SPEC}


@dataclass(frozen=True, kw_only=True)
class FlowConfig(WarmStartConfig, RFCNConfig):
    """A detector's settings, those of the flow network beside it, and their training together.

    ``key_frame_interval`` (l): frame 0 of a snippet is a key frame, and every l-th after it.
    """

    detector: str = knob(
        "r-fcn",
        "what answers from a map: R-FCN (propagates its 1,024-channel map), or Faster R-CNN (conv4, mega.pytorch)",
        choices=tuple(DETECTORS),
    )

    # ---- flow
    flow_network: str = knob(
        "flownet-s", "network that says where a frame's features are in the key frame", choices=FLOW_NETWORKS
    )
    flow_weights: str | None = knob(None, "state dict the flow network starts from (a local file)")
    flow_scale: bool = knob(True, "the flow network also says how much of each propagated feature to keep")
    warp: str = knob("aligned", "bilinear sampling: zero flow is the identity, or as published code", choices=WARPS)

    # ---- training
    propagation_iterations: int = knob(120_000, "optimiser steps of the method's own stage", low=1)
    propagation_learning_rate: float = knob(1e-3, "SGD's rate in the method's own stage", above=0)
    propagation_drops: tuple[float, ...] = knob((2 / 3,), "shares of that stage after which the rate falls tenfold")
    key_frame_range: int = knob(9, "a training clip's key frame lies at most so many frames before its frame", low=1)

    # ---- inference
    key_frame_interval: int = knob(10, "frames from key frame to key frame", kind="inference", symbol="l", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_drops("propagation_drops")

    def pairs(self) -> ClipSpec:
        """A frame and the key frame before it (or itself)."""
        return ClipSpec(
            num_supports=1, offset_low=-self.key_frame_range, offset_high=0, flip_probability=self.flip_probability
        )

    def propagation_schedule(self) -> Schedule:
        return self._schedule(self.propagation_iterations, self.propagation_learning_rate, self.propagation_drops)

    def detector_stages(self) -> tuple[Stage, ...]:
        """The single-frame detector's own stage where the configuration starts from it, else none."""
        spec = DETECTORS[self.detector]
        return spec.stages(narrowed(self, spec.config)) if self.warm_start == "detector" else ()
