"""What methods that propagate features have in common: a detector, a flow network, and how both are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import ClipSpec, MethodSpec, Schedule, Stage
from vodbench_methods.detection import faster_rcnn
from vodbench_methods.detection.warm_start import WarmStartConfig, narrowed
from vodbench_methods.flow import CONVENTIONS, FLOW_NETWORKS
from vodbench_methods.flow.network import IMAGENET_MEAN
from vodbench_methods.rfcn import model as rfcn
from vodbench_methods.rfcn.config import SMALL as RFCN_SMALL
from vodbench_methods.rfcn.config import TINY as RFCN_TINY
from vodbench_methods.rfcn.config import PositionSensitiveConfig

DETECTORS: Mapping[str, MethodSpec] = {"r-fcn": rfcn.SPEC, "faster-rcnn": faster_rcnn.SPEC}


@dataclass(frozen=True, kw_only=True)
class FlowNetworkConfig(PositionSensitiveConfig, WarmStartConfig):
    """A detector's settings, those of the flow network beside it, and of training that for optical flow."""

    detector: str = knob(
        "r-fcn",
        "what answers from a map: R-FCN (propagates its reduced conv5), or Faster R-CNN (conv4, as mega.pytorch)",
        choices=tuple(DETECTORS),
    )

    roi_sampling: int = knob(
        2, "samples a bin and direction; 0 (Faster R-CNN alone): as many as the bin is wide (mega.pytorch)", low=0
    )

    # ---- flow
    flow_network: str = knob(
        "flownet-s", "network that says where a frame's features are in the key frame", choices=tuple(FLOW_NETWORKS)
    )
    flow_scale: bool = knob(True, "the flow network also says how much of each propagated feature to keep")
    flow_mean: tuple[float, ...] = knob(IMAGENET_MEAN, "subtracted from RGB in 0..1 before the flow network")
    flow_odd_sizes: str = knob(
        "pad",
        "images that a FlowNet cannot halve evenly are padded, or its maps are cut to fit (as published weights need)",
        choices=("pad", "crop"),
    )
    flow_initialisation: str = knob(
        "kaiming", "random weights the flow network starts from (normal: N(0, 0.02))", choices=("kaiming", "normal")
    )
    warp: str = knob("exact", "bilinear sampling: zero flow is the identity, or as published code", choices=CONVENTIONS)

    # ---- optical flow, where it is trained
    flow_iterations: int = knob(100_000, "optimiser steps (Adam) of the flow network for optical flow", low=1)
    flow_learning_rate: float = knob(1e-4, "Adam's rate in that stage", above=0)
    flow_drops: tuple[float, ...] = knob((0.5, 0.75), "shares of that stage after which the rate falls tenfold")
    flow_range: int = knob(9, "the two frames of a pair lie at most so many frames apart", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_drops("flow_drops")
        FLOW_NETWORKS[self.flow_network].check_stride(self.feature_stride)
        if len(self.flow_mean) != 3:
            raise UserError(f"flow_mean = {list(self.flow_mean)} is not accepted: give 3 numbers")
        if self.flow_odd_sizes == "crop" and self.flow_network == "tiny":
            raise UserError(
                "flow_odd_sizes = 'crop' is a way of the FlowNets, which flow_network = 'tiny' has not; give 'pad'"
            )
        if self.roi_sampling == 0 and self.detector == "r-fcn":
            raise UserError("roi_sampling = 0 is a way of detector = 'faster-rcnn'; give 1 or more with 'r-fcn'")

    def detector_stages(self) -> tuple[Stage, ...]:
        """The single-frame detector's own stage."""
        spec = DETECTORS[self.detector]
        return spec.stages(narrowed(self, spec.config))

    def flow_schedule(self) -> Schedule:
        """Optimisation of the flow network for optical flow (FlowNet: Adam, momentum 0.9)."""
        schedule = self._schedule(self.flow_iterations, self.flow_learning_rate, self.flow_drops)
        return replace(schedule, optimizer="adam", weight_decay=0.0)

    def flow_pairs(self) -> ClipSpec:
        """Two frames of a snippet and the flow from the reference to the other."""
        reach = self.flow_range
        return ClipSpec(
            num_supports=1, offset_low=-reach, offset_high=reach, flip_probability=self.flip_probability, flow=True
        )


@dataclass(frozen=True, kw_only=True)
class KeyFrames(MethodConfig):
    """Frame 0 of a snippet is a key frame, and every l-th after it."""

    key_frame_interval: int = knob(10, "frames from key frame to key frame", kind="inference", symbol="l", low=1)
    warped_key_frames: bool = knob(
        False, "a key frame's own map is propagated too, by the flow from the frame to itself (mega.pytorch)"
    )


@dataclass(frozen=True, kw_only=True)
class OpticalFlowConfig(KeyFrames, FlowNetworkConfig):
    """The flow baseline: the detector's own stage, then the flow network's; neither knows of the other."""

    warm_start: str = knob("detector", "the detector is trained by itself: detector", choices=("none", "detector"))
    freeze_detector: bool = knob(True, "backbone, RPN and heads stay as the detector stage left them: true")
    flow_scale: bool = knob(False, "how much of a propagated feature to keep, which optical flow cannot tell: false")

    def __post_init__(self) -> None:
        super().__post_init__()
        own = {"warm_start": "detector", "freeze_detector": True, "flow_scale": False}
        for name, value in own.items():
            if getattr(self, name) != value:
                raise UserError(
                    f"{name} = {getattr(self, name)!r} is not accepted: detector and flow network are trained apart, "
                    f"which needs {value!r}; train them together as 'dff'"
                )


@dataclass(frozen=True, kw_only=True)
class FlowConfig(FlowNetworkConfig):
    """The same with a stage of its own in which detector and flow network learn together."""

    flow_start: str = knob(
        "random",
        "weights the flow network starts from: optical-flow: a stage on pairs with known flow (generated video) first",
        choices=("random", "optical-flow"),
    )
    flow_weights: str | None = knob(None, "checkpoint or published weights it starts from instead (a local file)")
    propagation_iterations: int = knob(120_000, "optimiser steps of the method's own stage", low=1)
    propagation_learning_rate: float = knob(1e-3, "SGD's rate in the method's own stage", above=0)
    propagation_drops: tuple[float, ...] = knob((2 / 3,), "shares of that stage after which the rate falls tenfold")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_drops("propagation_drops")
        if self.flow_start == "optical-flow" and self.warm_start == "none":
            raise UserError(
                "flow_start = 'optical-flow' comes after the detector's own stage; set warm_start to 'detector' too"
            )

    def clips(self) -> ClipSpec:
        """What the method's own stage sees."""
        raise NotImplementedError

    def propagation_schedule(self) -> Schedule:
        return self._schedule(self.propagation_iterations, self.propagation_learning_rate, self.propagation_drops)


@dataclass(frozen=True, kw_only=True)
class KeyFrameConfig(KeyFrames, FlowConfig):
    """Methods that propagate from key frames, trained on a frame and its key frame."""

    key_frame_range: int = knob(9, "a training clip's key frame lies at most so many frames before its frame", low=1)

    def clips(self) -> ClipSpec:
        """A frame and the key frame before it, which may be the frame itself."""
        return ClipSpec(
            num_supports=1,
            offset_low=-self.key_frame_range,
            offset_high=0,
            own_frame=True,
            flip_probability=self.flip_probability,
        )


_SMALL_FLOW: Mapping[str, Any] = {
    "flow_network": "tiny",
    "warm_start": "detector",
    "flow_iterations": 400,
    "flow_learning_rate": 2e-3,
}
_SMALL_PROPAGATION: Mapping[str, Any] = {
    "propagation_iterations": 300,
    "propagation_learning_rate": 0.02,
    "propagation_drops": (0.7,),
}
OPTICAL_FLOW_TINY: Mapping[str, Any] = {**RFCN_TINY, **_SMALL_FLOW}
OPTICAL_FLOW_SMALL: Mapping[str, Any] = {**RFCN_SMALL, **_SMALL_FLOW}
TINY: Mapping[str, Any] = {**OPTICAL_FLOW_TINY, **_SMALL_PROPAGATION}
SMALL: Mapping[str, Any] = {**OPTICAL_FLOW_SMALL, **_SMALL_PROPAGATION}
