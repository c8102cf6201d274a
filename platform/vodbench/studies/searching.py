"""The section ``search`` of a study file: which points are tried, and which are given up."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from vodbench.studies.constraints import Constraint, parse_constraint
from vodbench.studies.strict import Strict

Sampler = Literal["grid", "random", "tpe", "nsga2", "gp"]

WrittenConstraint = Annotated[
    Constraint, BeforeValidator(parse_constraint), PlainSerializer(str, return_type=str, when_used="always")
]


class EarlyStopping(Strict):
    """When a hopeless training is given up: asynchronous successive halving (ASHA; Li et al., MLSys 2020) on accuracy.

    A training pauses after each of the ``rungs``, shares of the iterations of its last stage, and its weights are
    judged on ``snippets`` validation snippets. It goes on where it is among the best 1 / ``reduction`` of the trainings
    of the same method and seed that have come as far.
    """

    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.25, 0.5), min_length=1)
    reduction: int = Field(default=3, ge=2)
    snippets: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _rising(self) -> EarlyStopping:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs {list(self.rungs)} do not rise; give shares such as [0.25, 0.5]")
        return self


class Search(Strict):
    """How points are chosen. A grid takes every combination, in order (only the first ``trials`` when given).

    ``constraints``: bounds such as ``runtime_ms <= 30``. A search looks for points that keep to them; fronts show which
    ones do. ``warm_start``: folders of earlier studies, whose comparable trials a search learns from.
    ``early_stopping``: hopeless trainings are given up.
    """

    sampler: Sampler = "grid"
    trials: int | None = Field(default=None, ge=1)
    seed: int = 0
    constraints: tuple[WrittenConstraint, ...] = ()
    warm_start: tuple[str, ...] = ()
    early_stopping: EarlyStopping | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Search:
        if self.warm_start and self.sampler in ("grid", "random"):
            raise ValueError(
                f"sampler '{self.sampler}' learns nothing from earlier trials; give tpe, nsga2 or gp, or leave "
                "warm_start out"
            )
        if self.sampler != "grid" and self.trials is None:
            raise ValueError(f"sampler '{self.sampler}' needs a number of trials; add 'trials: 20'")
        return self
