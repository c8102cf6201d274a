"""Paired differences of trials, over seeds and snippets.

For each seed, both trials are judged on the same resampled snippets; the difference of a resample is the mean over the
seeds. Its interval therefore covers which snippets were filmed. That of the seeds (which training was drawn) is shown
beside it as the differences seed by seed: three numbers say more than a standard deviation of three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodbench.detections import read_detections
from vodbench.errors import UserError
from vodbench.evaluation.bootstrap import bootstrap_map, interval
from vodbench.evaluation.matching import Matching, match
from vodbench.evaluation.overlap import Doubles
from vodbench.evaluation.precision import average_precision, mean_ap, on_frames
from vodbench.evaluation.protocols import protocol as protocol_named
from vodbench.evaluation.truth import TruthSet
from vodbench.records import TrialRecord
from vodbench.studies import PublishedPoint, Study, published_points
from vodbench.studies.model import Comparison, Selector

Detections = Callable[[TrialRecord], str]  # where a trial's detections are


@dataclass(frozen=True, slots=True)
class Paired:
    """mAP of a less mAP of b: mean over seeds, its 95% interval over snippets, and each seed's own difference."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @property
    def certain(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Gain:
    """One row: what was compared, both mean accuracies, and their difference."""

    name: str
    a_map: float
    b_map: float
    every_frame: Paired
    deteriorated: Paired | None  # None: the data record no deterioration
    paper: float | None  # the papers' own difference, where both have a published point of one table

    def figures(self) -> dict[str, Any]:
        paired = {"every_frame": self.every_frame, "deteriorated": self.deteriorated}
        return {
            "name": self.name,
            "a_map": self.a_map,
            "b_map": self.b_map,
            "paper": self.paper,
            **{
                name: None if p is None else {"mean": p.mean, "low": p.low, "high": p.high, "by_seed": list(p.by_seed)}
                for name, p in paired.items()
            },
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
    judge = _Judge(study, truth, detections)
    published = published_points(study)
    gains = []
    for done, (name, a, b) in enumerate(questions):
        if on_progress:
            on_progress(done, len(questions))
        gains.append(judge.gain(name, _trials(study, records, a), _trials(study, records, b), published))
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


class _Judge:
    """Matches each trial once and resamples it once a set of frames."""

    def __init__(self, study: Study, truth: TruthSet, detections: Detections) -> None:
        self._truth, self._detections = truth, detections
        self._settings = study.accuracy
        self._matchings: dict[str, Matching] = {}
        self._samples: dict[tuple[str, str], tuple[float, Doubles]] = {}
        self._frames = {"every_frame": np.ones(len(truth), bool)}
        if truth.deteriorations:
            self._frames["deteriorated"] = truth.frames_with("any")

    def gain(
        self, name: str, a: Mapping[int, TrialRecord], b: Mapping[int, TrialRecord], published: Sequence[PublishedPoint]
    ) -> Gain:
        paired = {frames: self._paired(frames, a, b) for frames in self._frames}
        means = [float(np.mean([self._resampled("every_frame", r)[0] for r in side.values()])) for side in (a, b)]
        seed = next(iter(a))
        paper = _published_difference(a[seed], b[seed], published)
        return Gain(name, means[0], means[1], paired["every_frame"], paired.get("deteriorated"), paper)

    def _paired(self, frames: str, a: Mapping[int, TrialRecord], b: Mapping[int, TrialRecord]) -> Paired:
        sides = [(self._resampled(frames, a[seed]), self._resampled(frames, b[seed])) for seed in a]
        by_seed = tuple(x[0] - y[0] for x, y in sides)
        samples = np.mean([x[1] - y[1] for x, y in sides], axis=0)
        mean = float(np.mean(by_seed))
        low, high = interval(samples) if len(samples) else (mean, mean)
        return Paired(mean, low, high, by_seed)

    def _resampled(self, frames: str, record: TrialRecord) -> tuple[float, Doubles]:
        """(mAP, its resamples) of a trial on these frames; the same resamples of snippets for every trial."""
        key = frames, record.fingerprint
        if key not in self._samples:
            matching, chosen = self._matching(record), self._frames[frames]
            mean = mean_ap(average_precision(matching, on_frames(matching, chosen)))
            samples = bootstrap_map(matching, self._settings.bootstrap, 0, chosen)
            self._samples[key] = (mean or 0.0, samples)
        return self._samples[key]

    def _matching(self, record: TrialRecord) -> Matching:
        if record.fingerprint not in self._matchings:
            found = read_detections(self._detections(record))
            self._matchings[record.fingerprint] = match(self._truth, found, protocol_named(self._settings.protocol))
        return self._matchings[record.fingerprint]


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
