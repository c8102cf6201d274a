"""The comparisons that a study asks for: which trials they mean, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodbench.errors import UserError
from vodbench.evaluation.truth import TruthSet
from vodbench.gains.judge import Detections, Judge, Paired
from vodbench.records import Runtime, TrialRecord
from vodbench.studies import PublishedPoint, Study, published_points
from vodbench.studies.model import Comparison, Selector


@dataclass(frozen=True, slots=True)
class Gain:
    """One row: what was compared, both mean accuracies, and their difference."""

    name: str
    a_map: float
    b_map: float
    on_frames: Mapping[str, Paired]  # every_frame; deteriorated and slow, medium, fast where the data tell them
    speed: float | None  # frames that a does in the time of one of b; None where not both runtimes are known
    operations: float | None  # GFLOPs of a frame of a over those of b, where both were counted
    a_keys: float | None  # share of the frames that a's backbone saw in full; None where that was not told
    b_keys: float | None
    contended: bool  # one of those was measured on a busy device
    paper: float | None  # the papers' own difference, where both have a published point of one table

    @property
    def every_frame(self) -> Paired:
        return self.on_frames["every_frame"]

    @property
    def deteriorated(self) -> Paired | None:
        return self.on_frames.get("deteriorated")

    def figures(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "a_map": self.a_map,
            "b_map": self.b_map,
            "speed": self.speed,
            "operations": self.operations,
            "a_keys": self.a_keys,
            "b_keys": self.b_keys,
            "contended": self.contended,
            "paper": self.paper,
            **{name: paired.figures() for name, paired in self.on_frames.items()},
        }


def study_gains(
    study: Study,
    records: Sequence[TrialRecord],
    truth: TruthSet,
    detections: Detections,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Gain]:
    """Every comparison of the study, in order. ``UserError`` where a trial that it names is missing or has failed."""
    questions = list(_questions(study))
    judge = Judge(study, truth, detections)
    published = published_points(study)
    gains = []
    for done, (name, *sides) in enumerate(questions):
        if on_progress:
            on_progress(done, len(questions))
        a, b = (_trials(study, records, side) for side in sides)
        gains.append(_gain(name, a, b, judge, published))
    if on_progress:
        on_progress(len(questions), len(questions))
    return gains


def _questions(study: Study) -> Iterator[tuple[str, Selector, Selector]]:
    for comparison in study.comparisons:
        if comparison.b is not None:
            yield comparison.name, comparison.a, comparison.b
        else:
            yield from _along(study, comparison)


def _along(study: Study, comparison: Comparison) -> Iterator[tuple[str, Selector, Selector]]:
    knob, a = comparison.along, comparison.a
    assert knob is not None
    entries = [e for e in study.methods if e.method == a.method and isinstance(e.knobs.get(knob), tuple)]
    if not entries:
        raise UserError(
            f"comparison '{comparison.name}' goes along {knob}, but no entry of {a.method} lists values of it; add "
            f"knobs: {{{knob}: [...]}}"
        )
    first, *others = dict.fromkeys(value for entry in entries for value in entry.knobs[knob])
    base = Selector(method=a.method, knobs={**a.knobs, knob: first})
    for value in others:
        name = f"{comparison.name}: {knob} = {value} - {knob} = {first}"
        yield name, Selector(method=a.method, knobs={**a.knobs, knob: value}), base


def _trials(study: Study, records: Sequence[TrialRecord], wanted: Selector) -> dict[int, TrialRecord]:
    """The trial of each seed that the selector means."""
    fitting = [r for r in records if r.method == wanted.method and _has(r.config, wanted.knobs)]
    what = f"{wanted.method} with {wanted.knobs}" if wanted.knobs else wanted.method
    found: dict[int, TrialRecord] = {}
    for seed in study.seeds:
        of_seed = [r for r in fitting if r.seed == seed]
        if len(of_seed) > 1:
            raise UserError(f"comparison of {what}: seed {seed} has {len(of_seed)} such trials; name more of its knobs")
        if not of_seed or of_seed[0].status != "complete":
            reason = f"failed ({of_seed[0].reason})" if of_seed else "is missing"
            raise UserError(f"comparison of {what}: its trial of seed {seed} {reason}; run the sweep (again) first")
        found[seed] = of_seed[0]
    return found


def _has(config: Mapping[str, Any], knobs: Mapping[str, Any]) -> bool:
    return all(name in config and config[name] == value for name, value in knobs.items())


def _gain(
    name: str,
    a: Mapping[int, TrialRecord],
    b: Mapping[int, TrialRecord],
    judge: Judge,
    published: Sequence[PublishedPoint],
) -> Gain:
    seed = next(iter(a))
    runtimes = [record.runtime for side in (a, b) for record in side.values()]
    return Gain(
        name=name,
        a_map=judge.mean_map(a),
        b_map=judge.mean_map(b),
        on_frames=judge.differences(a, b),
        speed=_mean_ratio(b, a, lambda runtime: runtime.mean_ms),
        operations=_mean_ratio(a, b, lambda runtime: runtime.gflops),
        a_keys=_key_frames(a),
        b_keys=_key_frames(b),
        contended=any(runtime is not None and runtime.contended for runtime in runtimes),
        paper=_published_difference(a[seed], b[seed], published),
    )


def _mean_ratio(
    over: Mapping[int, TrialRecord], under: Mapping[int, TrialRecord], figure: Callable[[Runtime], float | None]
) -> float | None:
    """The geometric mean over seeds; None where a seed has not both figures.

    Of times, the mean a frame is taken: a median would not see key frames.
    """
    logs = []
    for seed in over:
        x, y = (None if (r := side[seed].runtime) is None else figure(r) for side in (over, under))
        if not x or not y:
            return None
        logs.append(np.log(x / y))
    return float(np.exp(np.mean(logs)))


def _key_frames(trials: Mapping[int, TrialRecord]) -> float | None:
    shares = [record.accuracy.key_frame_share for record in trials.values() if record.accuracy]
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known and len(known) == len(trials) else None


def _published_difference(a: TrialRecord, b: TrialRecord, published: Sequence[PublishedPoint]) -> float | None:
    """Of the two points that say most about these trials: of one table, or else of one paper.

    Rows that leave open what the trials differ in stand for both of them, and say nothing.
    """
    sides = [[p for p in published if p.map is not None and p.matches(record)] for record in (a, b)]
    pairs = [
        (p, q) for p in sides[0] for q in sides[1] if _paper(p) == _paper(q) and not (p.matches(b) and q.matches(a))
    ]
    if not pairs:
        return None
    p, q = max(pairs, key=lambda pair: (pair[0].source == pair[1].source, sum(len(point.settings) for point in pair)))
    assert p.map is not None
    assert q.map is not None
    return p.map - q.map


def _paper(point: PublishedPoint) -> str:
    """The source without its table."""
    return point.source.rpartition(", ")[0]
