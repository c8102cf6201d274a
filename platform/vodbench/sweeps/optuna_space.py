"""A study's space and results in Optuna's words: parameters, distributions, values and constraints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna import distributions as d
from optuna.trial import FrozenTrial, TrialState

from vodbench.records import TrialRecord
from vodbench.studies import Constraint, KnobValues, MethodSpace, Point
from vodbench.sweeps.places import Place, objectives

_FARTHEST = 10.0  # beyond a constraint's limit, in limits: what Optuna is told of anything farther


class OptunaSpace:
    """The entries of a study as one space: which entry, then the knobs of that entry, each under a name of its own."""

    def __init__(self, spaces: Sequence[MethodSpace], constraints: Sequence[Constraint] = ()) -> None:
        self._spaces, self._constraints = spaces, constraints

    def draw(self, trial: optuna.Trial) -> Point:
        """The point that Optuna proposes; it is asked for what matters only."""
        entry = trial.suggest_categorical("entry", list(range(len(self._spaces))))

        def suggest(swept: KnobValues) -> Any:
            return swept.decode(_suggest(trial, _parameter(entry, swept.name), swept.distribution()))

        return self._spaces[entry].draw(suggest)

    def point(self, place: Place) -> Point:
        return self._spaces[place.entry].decode(place.drawn)

    def places(self, record: TrialRecord) -> Iterator[Place]:
        """Where the record's swept knobs lie, for each entry of its method that has such values."""
        for entry, space in enumerate(self._spaces):
            drawn = space.encode(record.config) if record.method == space.spec.name else None
            if drawn is not None:
                yield Place(entry, drawn)

    def finished(self, place: Place, records: Sequence[TrialRecord]) -> FrozenTrial:
        """The trial of a point that is over, from the records of its seeds."""
        values = objectives(records)
        swept = {knob.name: knob.distribution() for knob in self._spaces[place.entry].knobs}
        names = {name: _parameter(place.entry, name) for name in place.drawn}
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if values else TrialState.FAIL,
            values=values,
            params={"entry": place.entry, **{names[name]: value for name, value in place.drawn.items()}},
            distributions={
                "entry": d.CategoricalDistribution(list(range(len(self._spaces)))),
                **{names[name]: swept[name] for name in place.drawn},
            },
            constraints=self.violations(records) if values else None,
        )

    def violations(self, records: Sequence[TrialRecord]) -> dict[str, float]:
        """By constraint, how far a point lies beyond the limit (mean over seeds); at most 0 where it keeps to it.

        Shares of the limit, so that samplers may add them up; bounded, since a latency without end is infinitely far.
        """
        return {
            str(constraint): min(math.fsum(constraint.violation(r) for r in records) / len(records), _FARTHEST)
            for constraint in self._constraints
        }


def _parameter(entry: int, knob: str) -> str:
    return f"{entry}.{knob}"


def _suggest(trial: optuna.Trial, name: str, wanted: d.BaseDistribution) -> Any:
    if isinstance(wanted, d.IntDistribution):
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    if isinstance(wanted, d.FloatDistribution):
        return trial.suggest_float(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, d.CategoricalDistribution)
    return trial.suggest_categorical(name, wanted.choices)
