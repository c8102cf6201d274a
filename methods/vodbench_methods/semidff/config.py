"""The knobs of semi-DFF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench.spec import ClipSpec, Schedule
from vodbench_methods.propagation.config import OPTICAL_FLOW_SMALL, OPTICAL_FLOW_TINY, FlowNetworkConfig, KeyFrames

INFINITE: Literal["inf"] = "inf"

# Second stages with either loss.
_REGRESSION = ("reg", "two-step", "joint")
_SEMANTICS = ("sem", "two-step", "joint")


@dataclass(frozen=True, kw_only=True)
class SemiDFFConfig(KeyFrames, FlowNetworkConfig):
    """A single-frame detector, trained with labels; then what propagates its features, trained on video without them.

    Stage 1 is the detector's own (``training_frames``: what of the labelled data it sees). Stage 2 has a frozen copy of
    that detector for a teacher: it looks at the frame itself, the student at what the key frame lends.
    """

    warm_start: str = knob(
        "detector", "the detector comes first: without labels nothing can take its place", choices=("none", "detector")
    )
    flow_initialisation: str = knob(
        "normal", "random weights the flow network starts from (normal: N(0, 0.02))", choices=("kaiming", "normal")
    )

    # ---- stage 2
    second_stage: str = knob(
        "two-step",
        "learning from unlabelled video: reg: predict the frame's features; sem: answer as the teacher does; "
        "two-step: reg, then sem; joint: both losses at once",
        choices=("reg", "sem", "two-step", "joint"),
    )
    prediction: str = knob(
        "flow",
        "a frame's features: flow: the key frame's, warped; generative: computed from them by convolutions",
        choices=("flow", "generative"),
    )
    generator_channels: int = knob(
        512, "channels between the two convolutions", low=1, needs={"prediction": "generative"}
    )
    regression_loss: str = knob(
        "l2",
        "distance from the predicted features to the frame's own: mean square, mean absolute value; steady: to those "
        "that carry on the change between two frames before",
        choices=("l2", "l1", "steady"),
        needs={"second_stage": _REGRESSION},
    )
    inter_class: bool = knob(
        True, "semantic loss: class probabilities of the teacher's proposals", needs={"second_stage": _SEMANTICS}
    )
    attention: bool = knob(
        True,
        "semantic loss: objectness of every anchor, which directs the second half's attention",
        needs={"second_stage": _SEMANTICS},
    )
    bbox: bool = knob(True, "semantic loss: box offsets of anchors and proposals", needs={"second_stage": _SEMANTICS})
    temperature: float | Literal["inf"] = knob(
        1.0,
        "softens both sides' probabilities; inf: the limit, a distance of logits",
        symbol="T",
        above=0,
        needs={"second_stage": _SEMANTICS},
    )
    box_weight: float = knob(1.0, "weight of the bbox term", symbol="lambda", low=0, needs={"bbox": True})
    trained: str = knob(
        "temporal+task",
        "what the semantic loss trains: the flow network; with what follows the propagated features; with all of the "
        "detector (frozen_stages stay)",
        choices=("temporal", "temporal+task", "temporal+spatial"),
        needs={"second_stage": _SEMANTICS},
    )
    key_frame_range: int = knob(9, "a training clip's key frame lies at most so many frames before its frame", low=1)
    # Two epochs of VID_train_15frames and its mirror images, four frames a step.
    regression_iterations: int = knob(
        57_800, "optimiser steps of the regression", low=1, needs={"second_stage": ("reg", "two-step")}
    )
    semantic_iterations: int = knob(
        57_800, "optimiser steps with the semantic loss", low=1, needs={"second_stage": _SEMANTICS}
    )
    unlabelled_learning_rate: float = knob(5e-5, "RMSprop's rate in stage 2, constant", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_start == "none" or self.freeze_detector:
            raise UserError(
                f"warm_start = '{self.warm_start}' and freeze_detector = {self.freeze_detector} are not accepted: "
                "semi-DFF starts from a trained detector, and 'trained' says what of it stays; give 'detector', false"
            )
        if self.second_stage != "reg" and not (self.inter_class or self.attention or self.bbox):
            raise UserError(
                f"second_stage = '{self.second_stage}' without inter_class, attention and bbox has no semantic loss; "
                "switch one of them on, or set second_stage to 'reg'"
            )
        if self.regression_loss == "steady" and self.key_frame_range < 2:
            raise UserError(
                "regression_loss = 'steady' looks at two frames before; set key_frame_range to 2 or more "
                f"(it is {self.key_frame_range})"
            )

    def unlabelled_clips(self, *, num_supports: int = 1, own_frame: bool = False) -> ClipSpec:
        """Frames of videos, labelled or not, and frames before each; the first of these is its key frame.

        ``own_frame``: which may be the frame itself, where there is something to learn from its own features.
        """
        return ClipSpec(
            num_supports=num_supports,
            offset_low=-self.key_frame_range,
            offset_high=0,
            own_frame=own_frame,
            flip_probability=self.flip_probability,
            frames="unlabelled",
        )

    def unlabelled_schedule(self, iterations: int) -> Schedule:
        """RMSprop without momentum, decay or drops, as the published code has it."""
        constant = self._schedule(iterations, self.unlabelled_learning_rate, ())
        return replace(constant, optimizer="rmsprop", momentum=0.0, weight_decay=0.0, warmup_iterations=0)

    def for_regression(self) -> SemiDFFConfig:
        """The same without what only the semantic loss knows, so that its settings share one regression."""
        names = ("inter_class", "attention", "bbox", "temperature", "box_weight", "trained")
        return self.replace(second_stage="reg", **{f.name: f.default for f in fields(self) if f.name in names})


# On generated video the regression learned with rates of 3e-4 and 1e-3 and not with 3e-3, whose first steps push the
# flow out of the map; the semantic loss began worse with 1e-3 than with 3e-4. A step of 4 clips: 0.1 s of one core.
_SMALL_STAGES: Mapping[str, Any] = {
    "flow_initialisation": "kaiming",  # N(0, 0.02) is made for hundreds of channels
    "generator_channels": 32,
    "regression_iterations": 400,
    "semantic_iterations": 250,
    "unlabelled_learning_rate": 5e-4,
}
TINY: Mapping[str, Any] = {**OPTICAL_FLOW_TINY, **_SMALL_STAGES}
SMALL: Mapping[str, Any] = {**OPTICAL_FLOW_SMALL, **_SMALL_STAGES}
