"""The knobs of SELSA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench.spec import ClipSpec
from vodbench_methods.detection.config import SMALL as DETECTOR_SMALL
from vodbench_methods.detection.config import TINY as DETECTOR_TINY
from vodbench_methods.detection.warm_start import RelationStageConfig
from vodbench_methods.sequence import SequenceConfig


@dataclass(frozen=True, kw_only=True)
class SELSAConfig(SequenceConfig, RelationStageConfig):
    """Faster R-CNN whose proposals aggregate those of frames from the whole video."""

    # ---- inference
    own_frame: bool = knob(
        True,
        "the reference frame's own K best proposals are attended to besides the support frames' (mmtracking at test)",
        kind="inference",
    )

    # ---- network
    modules: int = knob(2, "aggregation modules, each after a fully connected layer of its own", low=1)
    heads: int = knob(16, "attention blocks of a module", low=1)

    # ---- training
    num_supports: int = knob(2, "support frames of a training clip", low=1)
    train_supports: str = knob(
        "video",
        "where they are drawn from: the whole snippet (paper), or frame_range around the reference (mmtracking)",
        choices=("video", "window"),
    )
    frame_range: int = knob(
        9,
        "frames on each side of the reference that a window has in training",
        low=1,
        needs={"train_supports": "window"},
    )
    K_train: int = knob(300, "supportive proposals a frame in training", symbol="K", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fc_channels % self.heads:
            raise UserError(
                f"heads = {self.heads} does not divide fc_channels = {self.fc_channels}; choose a divisor of it"
            )
        if self.train_supports == "window" and self.num_supports > 2 * self.frame_range:
            raise UserError(
                f"num_supports = {self.num_supports} is more than the 2 x frame_range = {2 * self.frame_range} frames "
                "around the reference; raise frame_range or draw fewer"
            )

    def clips(self) -> ClipSpec:
        """A reference frame with its support frames."""
        return ClipSpec(
            num_supports=self.num_supports,
            offset_low=-self.frame_range,
            offset_high=self.frame_range,
            flip_probability=self.flip_probability,
            whole_snippet=self.train_supports == "video",
        )


_SMALL_AGGREGATION: Mapping[str, Any] = {
    "warm_start": "detector",
    "freeze_detector": True,
    "heads": 8,
    "test_frames": 8,
    "K": 12,
    "K_train": 16,
    "relation_learning_rate": 0.03,
    "relation_drops": (0.7,),
}
TINY: Mapping[str, Any] = {**DETECTOR_TINY, **_SMALL_AGGREGATION, "relation_iterations": 300}
SMALL: Mapping[str, Any] = {**DETECTOR_SMALL, **_SMALL_AGGREGATION, "relation_iterations": 400}
