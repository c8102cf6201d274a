"""The knobs of Relation Distillation Networks, basic and full, with the paper's symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench.spec import ClipSpec, Schedule
from vodbench_methods.detection.config import SMALL as DETECTOR_SMALL
from vodbench_methods.detection.config import TINY as DETECTOR_TINY
from vodbench_methods.detection.warm_start import WarmStartConfig


@dataclass(frozen=True, kw_only=True)
class RDNBasicConfig(WarmStartConfig):
    """Faster R-CNN whose proposals attend to those of the neighbouring frames: RDN's basic stage."""

    # ---- inference
    T: int = knob(18, "support frames on each side of the reference frame", kind="inference", symbol="T", low=1)
    K: int = knob(75, "supportive proposals a frame, by objectness", kind="inference", symbol="K", low=1)
    video_ends: str = knob(
        "truncate",
        "the pool at a video's ends: fewer frames (paper), or the first and last repeated (mega.pytorch)",
        kind="inference",
        choices=("truncate", "replicate"),
    )

    linking: str = knob(
        "none",
        "rescoring along a snippet's boxes when it has ended: Seq-NMS (instead of NMS), Viterbi tubes, and tubes whose "
        "edges are weighted by the last basic module's attention (BLR)",
        kind="inference",
        choices=("none", "seq-nms", "tube", "blr"),
    )

    # ---- network
    N_b: int = knob(2, "relation modules in the basic stage", symbol="N_b", low=0)
    heads: int = knob(16, "attention heads of a relation module", low=1)
    relation_order: str = knob(
        "pre",
        "pre: ReLU(fc), attention, add (mega.pytorch); post: fc, attention, add, ReLU (Relation Networks)",
        choices=("pre", "post"),
    )
    relation_floor: str = knob(
        "max",
        "floor of distances and weights: max(x, floor) (Relation Networks) or x + floor (mega.pytorch)",
        choices=("max", "add"),
    )

    # ---- training
    T_train: int = knob(18, "support frames are drawn within so many frames", symbol="T", low=1)
    K_train: int = knob(75, "supportive proposals a frame in training", symbol="K", low=1)
    num_supports: int = knob(2, "support frames of a training clip", low=0)
    basic_iterations: int = knob(120_000, "optimiser steps of the basic stage", low=1)
    basic_learning_rate: float = knob(1e-3, "SGD's rate in the basic stage", above=0)
    basic_drops: tuple[float, ...] = knob((2 / 3,), "shares of the basic stage after which the rate falls tenfold")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.linking == "blr" and not self.N_b:
            raise UserError("linking = 'blr' takes relation weights, which N_b = 0 has not; use 'tube', or raise N_b")
        if self.fc_channels % self.heads:
            raise UserError(
                f"heads = {self.heads} does not divide fc_channels = {self.fc_channels}; choose a divisor of it"
            )
        if self.num_supports > 2 * self.T_train:
            raise UserError(
                f"num_supports = {self.num_supports} is more than the 2 x T_train = {2 * self.T_train} frames around "
                "the reference; raise T_train or draw fewer"
            )
        self._check_drops("basic_drops")

    @property
    def lag(self) -> int | None:
        return self.T

    @property
    def encoded_proposals(self) -> int:
        """Proposals of a frame that are encoded: as a reference it uses ``proposals``, as a support ``K``."""
        return max(self.proposals, self.K)

    def in_training(self) -> Self:
        """The same with the training values in place of the inference ones: what a training forward runs with."""
        return self.replace(T=self.T_train, K=self.K_train)

    def clips(self) -> ClipSpec:
        """A reference frame with its support frames."""
        return ClipSpec(
            num_supports=self.num_supports,
            offset_low=-self.T_train,
            offset_high=self.T_train,
            flip_probability=self.flip_probability,
        )

    def basic_schedule(self) -> Schedule:
        return self._schedule(self.basic_iterations, self.basic_learning_rate, self.basic_drops)


@dataclass(frozen=True, kw_only=True)
class RDNConfig(RDNBasicConfig):
    """RDN with its advanced stage, in which the best supportive proposals are refined by all of them first."""

    r: float = knob(
        20.0, "percentage of supportive proposals that are refined", kind="inference", symbol="r", above=0, high=100
    )
    top_r: str = knob(
        "frame",
        "the best r% by objectness of every frame (mega.pytorch), or of the whole pool (paper)",
        choices=("frame", "pool"),
    )
    r_train: float = knob(20.0, "percentage of supportive proposals refined in training", symbol="r", above=0, high=100)
    advanced_iterations: int = knob(60_000, "optimiser steps of the advanced stage", low=1)
    advanced_learning_rate: float = knob(1e-3, "SGD's rate in the advanced stage", above=0)
    advanced_drops: tuple[float, ...] = knob(
        (2 / 3,), "shares of the advanced stage after which the rate falls tenfold"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_drops("advanced_drops")

    def in_training(self) -> Self:
        return super().in_training().replace(r=self.r_train)

    def advanced_schedule(self) -> Schedule:
        return self._schedule(self.advanced_iterations, self.advanced_learning_rate, self.advanced_drops)


_SMALL_RELATION: Mapping[str, Any] = {
    "warm_start": "detector",
    "freeze_detector": True,
    "heads": 8,
    "T": 5,
    "K": 12,
    "T_train": 6,
    "K_train": 16,
}
_BASIC_DROPS: Mapping[str, Any] = {"basic_learning_rate": 0.03, "basic_drops": (0.7,)}
_ADVANCED_DROPS: Mapping[str, Any] = {"advanced_learning_rate": 0.02, "advanced_drops": (0.7,)}

# Relations learn on a frozen detector in a third of its steps. On generated video (100 + 40 snippets, one seed) 400 and
# 300 steps gave mAP 0.774 single, 0.841 basic, 0.857 full; 200 and 120 steps 0.811 and 0.833; twice the rate is worse.
BASIC_TINY: Mapping[str, Any] = {**DETECTOR_TINY, **_SMALL_RELATION, **_BASIC_DROPS, "basic_iterations": 300}
BASIC_SMALL: Mapping[str, Any] = {**DETECTOR_SMALL, **_SMALL_RELATION, **_BASIC_DROPS, "basic_iterations": 400}
TINY: Mapping[str, Any] = {**BASIC_TINY, **_ADVANCED_DROPS, "advanced_iterations": 160}
SMALL: Mapping[str, Any] = {**BASIC_SMALL, **_ADVANCED_DROPS, "advanced_iterations": 300}
