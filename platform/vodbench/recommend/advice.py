"""The best settings of all recorded trials under a budget, one piece of advice for each kind of trials that compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.errors import OneLineError, UserError
from vodbench.evaluation import Difference
from vodbench.recommend.choice import Estimate, after_choice, best_probability
from vodbench.recommend.limits import Limits, no_candidate
from vodbench.trials import Conditions, Configuration, StoredTrial, configurations, grouped, labels
from vodbench.trials.judging import EVERY_FRAME, Resampled, judged

OnProgress = Callable[[int, int], None]
Judges = Callable[[Sequence[Configuration]], Resampled]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration that keeps the limits, the budget by its mean runtime.

    ``low``/``high``: 95% interval over snippets of this configuration alone, as in every other table; of several seeds
    of the mean over them. ``probability``, ``behind``: of being the best of the candidates, and mAP of the best less
    this one's, on the same resampled snippets; None where candidates could not be judged together.
    """

    configuration: Configuration
    label: str
    map: float
    low: float
    high: float
    may_miss: bool  # the interval of its runtime reaches above the budget
    probability: float | None = None
    behind: Difference | None = None


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Candidates by falling mAP: the first is recommended, the second its runner-up."""

    conditions: Conditions  # of the trials; ``judged_on`` says where accuracy is from, if not from there
    candidates: tuple[Candidate, ...]
    after_choice: Estimate | None  # of the first, allowing for its having been chosen (see ``choice``)
    not_judged: int  # less accurate configurations inside the budget that were left out
    unsure: str | None  # why candidates could not be judged together
    may_keep: str | None  # the most accurate setting whose mean is above the budget but its interval is not
    judged_on: str = ""
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def safe(self) -> Candidate | None:
        """The best whose whole runtime interval is inside the budget."""
        return next((candidate for candidate in self.candidates if not candidate.may_miss), None)


@dataclass(frozen=True)
class NoCandidate:
    """Why trials under these conditions give no advice, in one line."""

    conditions: Conditions
    reason: str


def recommend(
    trials: Sequence[StoredTrial], limits: Limits, *, most: int = 12, on_progress: OnProgress | None = None
) -> list[Advice | NoCandidate]:
    """Advice for each kind of trials: those of other data, protocols or devices are never mixed.

    Args:
        most: how many configurations are judged together, those with the highest recorded mAP; the probability of
            being the best of one further down is taken to be 0.

    Raises:
        UserError: there is no complete trial.
    """
    if not trials:
        raise UserError("these studies hold no complete trial; run 'vodbench sweep' first, or give others")
    advice: list[Advice | NoCandidate] = []
    for conditions, of_group in grouped(trials).items():
        found = configurations(of_group)
        if not any(map(limits.admits, found)):
            advice.append(NoCandidate(conditions, no_candidate(found, limits)))
            continue
        advice.append(
            advise(
                conditions,
                found,
                limits,
                lambda c: judged(c, on_progress, only_every_frame=True)[EVERY_FRAME],
                most=most,
            )
        )
    return advice


def advise(
    conditions: Conditions,
    found: Sequence[Configuration],
    limits: Limits,
    judges: Judges,
    *,
    most: int,
    **more: Any,
) -> Advice:
    """Advice on these configurations, some of which keep the limits; ``more`` are fields of ``Advice``."""
    inside = sorted(filter(limits.admits, found), key=lambda c: -c.map)
    chosen = inside[:most]
    name = dict(zip(map(id, found), labels(found), strict=True))
    try:
        resampled, unsure = judges(chosen), None
    except OneLineError as error:
        resampled, unsure = None, str(error)
    candidates = _recorded(chosen, limits) if resampled is None else _together(chosen, resampled, limits)
    return Advice(
        conditions=conditions,
        candidates=tuple(
            sorted(
                (Candidate(label=name[id(c["configuration"])], **c) for c in candidates),
                key=lambda candidate: -candidate.map,
            )
        ),
        after_choice=None if resampled is None else after_choice(resampled),
        not_judged=len(inside) - len(chosen),
        unsure=unsure,
        may_keep=_may_keep(found, limits, name),
        **more,
    )


def _may_keep(found: Sequence[Configuration], limits: Limits, name: Mapping[int, str]) -> str | None:
    near = max(filter(limits.may_keep, found), key=lambda c: c.map, default=None)
    if near is None or near.map <= max(c.map for c in found if limits.admits(c)):
        return None
    runtime = f"{near.mean_ms:.2f} ms [{near.low_ms:.2f}, {near.high_ms:.2f}]"
    return f"{name[id(near)]} with mAP {near.map:.3f} may keep it too: {runtime}"


def _recorded(chosen: Sequence[Configuration], limits: Limits) -> list[dict[str, Any]]:
    """What the records say of each by itself."""
    return [
        {"configuration": c, "map": c.map, "low": c.low, "high": c.high, "may_miss": limits.may_miss(c)} for c in chosen
    ]


def _together(chosen: Sequence[Configuration], resampled: Resampled, limits: Limits) -> list[dict[str, Any]]:
    probability = best_probability(resampled.samples)
    best = int(resampled.map.argmax())
    found = []
    for n, configuration in enumerate(chosen):
        low, high = resampled.interval(n)
        found.append(
            {
                "configuration": configuration,
                "map": float(resampled.map[n]),
                "low": low,
                "high": high,
                "may_miss": limits.may_miss(configuration),
                "probability": float(probability[n]),
                "behind": resampled.difference(best, n),
            }
        )
    return found
