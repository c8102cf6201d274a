"""The knobs of Relation Networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench_methods.detection.config import SMALL as DETECTOR_SMALL
from vodbench_methods.detection.config import TINY as DETECTOR_TINY
from vodbench_methods.detection.warm_start import RelationStageConfig


@dataclass(frozen=True, kw_only=True)
class RelationNetworkConfig(RelationStageConfig):
    """Faster R-CNN whose proposals attend to each other: an object relation module after each of ``fc_layers``."""

    heads: int = knob(16, "attention heads of a relation module", symbol="N_r", low=1)
    relation_order: str = knob(
        "post",
        "post: fc, attention, add, ReLU (Relation Networks); pre: ReLU(fc), attention, add (as mega.pytorch's RDN)",
        choices=("post", "pre"),
    )
    relation_floor: str = knob(
        "max",
        "floor of distances and weights: max(x, floor) (Relation Networks) or x + floor (mega.pytorch)",
        choices=("max", "add"),
    )
    train_keys: str = knob(
        "sampled",
        "whom the sampled RoIs attend to in training: each other, or the frame's proposals as they do at test",
        choices=("sampled", "proposals"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fc_channels % self.heads:
            raise UserError(
                f"heads = {self.heads} does not divide fc_channels = {self.fc_channels}; choose a divisor of it"
            )


_SMALL_RELATION: Mapping[str, Any] = {
    "warm_start": "detector",
    "freeze_detector": True,
    "heads": 8,
    "relation_learning_rate": 0.03,
    "relation_drops": (0.7,),
}
TINY: Mapping[str, Any] = {**DETECTOR_TINY, **_SMALL_RELATION, "relation_iterations": 300}
SMALL: Mapping[str, Any] = {**DETECTOR_SMALL, **_SMALL_RELATION, "relation_iterations": 400}
