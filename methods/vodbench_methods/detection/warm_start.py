"""Training in two steps: a single-frame detector first, then what a method adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import ClipSpec, MethodSpec, Schedule, Stage
from vodbench_methods.detection import faster_rcnn
from vodbench_methods.detection.clip_training import ClipTrainedDetector
from vodbench_methods.detection.config import FasterRCNNConfig
from vodbench_methods.detection.rows import method_row

Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig(FasterRCNNConfig):
    """A detector's settings, and whether a trained Faster R-CNN comes first."""

    warm_start: str = knob(
        "none",
        "detector: start from a trained Faster R-CNN; none: from the backbone's weights (as the papers do)",
        choices=("none", "detector"),
    )
    freeze_detector: bool = knob(False, "backbone and RPN stay as the detector stage left them")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_detector and self.warm_start == "none":
            raise UserError(
                "freeze_detector = True with warm_start = 'none' would keep an untrained detector; "
                "set warm_start to 'detector' or freeze_detector to false"
            )

    def _check_drops(self, name: str) -> None:
        drops = getattr(self, name)
        if any(not 0 < share < 1 for share in drops) or list(drops) != sorted(set(drops)):
            raise UserError(f"{name} = {list(drops)} is not accepted: give rising shares in (0, 1), such as [0.7]")

    def _schedule(self, iterations: int, learning_rate: float, drops: tuple[float, ...]) -> Schedule:
        return Schedule(
            iterations=iterations,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            weight_decay=self.weight_decay,
            warmup_iterations=self.warmup_iterations,
            milestones=tuple(round(share * iterations) for share in drops),
            clip_gradient_norm=self.clip_gradient_norm,
        )


@dataclass(frozen=True, kw_only=True)
class RelationStageConfig(WarmStartConfig):
    """The same with one stage of its own after it, whose schedule is that of RDN's basic stage: comparable."""

    relation_iterations: int = knob(120_000, "optimiser steps of the method's own stage", low=1)
    relation_learning_rate: float = knob(1e-3, "SGD's rate in the method's own stage", above=0)
    relation_drops: tuple[float, ...] = knob((2 / 3,), "shares of that stage after which the rate falls tenfold")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_drops("relation_drops")

    def clips(self) -> ClipSpec:
        """What that stage is trained on: reference frames alone, unless the method has support frames."""
        return self.single_frames()

    def relation_schedule(self) -> Schedule:
        return self._schedule(self.relation_iterations, self.relation_learning_rate, self.relation_drops)


def narrowed(config: MethodConfig, kind: type[Config]) -> Config:
    """The part of ``config`` that a method of ``kind`` knows, so that equal stages of both share a checkpoint.

    An inference knob that ``config`` lacks, or with a value that ``kind`` does not take, keeps its default: it changes
    no training.
    """
    own = {name: getattr(config, name) for name in kind.knobs() if name in config.knobs()}
    return kind(**{name: value for name, value in own.items() if kind.knobs()[name].allows(value)})


def detector_stages(config: WarmStartConfig) -> tuple[Stage, ...]:
    """The stage of ``faster-rcnn`` where the configuration starts from it, else none."""
    return faster_rcnn.SPEC.stages(narrowed(config, FasterRCNNConfig)) if config.warm_start == "detector" else ()


def relation_method(
    name: str,
    detector: type[ClipTrainedDetector],
    config: type[RelationStageConfig],
    *,
    summary: str,
    paper: str,
    presets: Mapping[str, Mapping[str, Any]],
) -> MethodSpec:
    """The METHODS row of a ``detector`` with one stage of its own, after Faster R-CNN's where that is asked for."""

    def stages(given: RelationStageConfig) -> tuple[Stage, ...]:
        schedule = given.relation_schedule()
        own = Stage(name="relation", method=name, config=given, clips=given.clips(), schedule=schedule)
        return (*detector_stages(given), own)

    return method_row(name, detector, config, stages, summary=summary, paper=paper, presets=presets)
