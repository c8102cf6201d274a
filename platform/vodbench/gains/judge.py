"""Paired differences of trials, over seeds and snippets.

For each seed, both trials are judged on the same resampled snippets; the difference of a resample is the mean over the
seeds. Its interval therefore covers which snippets were filmed. That of the seeds (which training was drawn) is shown
beside it as the differences seed by seed: three numbers say more than a standard deviation of three.

They are judged on every frame, on the deteriorated ones, and on frames all of whose objects are slow, medium or fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodbench.detections import read_detections
from vodbench.evaluation.bootstrap import bootstrap_map, interval
from vodbench.evaluation.matching import Matching, match
from vodbench.evaluation.motion import RANGES, in_ranges
from vodbench.evaluation.overlap import Doubles
from vodbench.evaluation.precision import average_precision, mean_ap, on_frames
from vodbench.evaluation.protocols import protocol as protocol_named
from vodbench.evaluation.truth import TruthSet
from vodbench.records import TrialRecord
from vodbench.spec import Bools
from vodbench.studies import Study

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

    def figures(self) -> dict[str, Any]:
        return {"mean": self.mean, "low": self.low, "high": self.high, "by_seed": list(self.by_seed)}


class Judge:
    """Matches each trial once and resamples it once a set of frames."""

    def __init__(self, study: Study, truth: TruthSet, detections: Detections) -> None:
        self._truth, self._detections = truth, detections
        self._settings = study.accuracy
        self._matchings: dict[str, Matching] = {}
        self._samples: dict[tuple[str, str], tuple[float, Doubles]] = {}
        self._frames = kinds_of_frames(truth)

    def mean_map(self, trials: Mapping[int, TrialRecord]) -> float:
        """mAP on every frame, mean over the seeds."""
        return float(np.mean([self._resampled("every_frame", record)[0] for record in trials.values()]))

    def differences(self, a: Mapping[int, TrialRecord], b: Mapping[int, TrialRecord]) -> dict[str, Paired]:
        """mAP of a less that of b by kind of frame; both hold a trial a seed."""
        return {frames: self._paired(frames, a, b) for frames in self._frames}

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
            self._samples[key] = resampled_map(self._matching(record), self._frames[frames], self._settings.bootstrap)
        return self._samples[key]

    def _matching(self, record: TrialRecord) -> Matching:
        if record.fingerprint not in self._matchings:
            found = read_detections(self._detections(record))
            self._matchings[record.fingerprint] = match(self._truth, found, protocol_named(self._settings.protocol))
        return self._matchings[record.fingerprint]


def resampled_map(matching: Matching, frames: Bools, resamples: int) -> tuple[float, Doubles]:
    """(mAP, its (resamples,) bootstrap) on these frames, (F,); the same resamples of snippets for every matching of
    the same ground truth, so that differences and maxima over trials can be taken resample by resample."""
    mean = mean_ap(average_precision(matching, on_frames(matching, frames)))
    return mean or 0.0, bootstrap_map(matching, resamples, 0, frames)


def kinds_of_frames(truth: TruthSet) -> dict[str, Bools]:
    """(F,) masks by name; only kinds that the data tell and that hold an object."""
    kinds = {"every_frame": np.ones(len(truth), bool)}
    if truth.deteriorations:
        kinds["deteriorated"] = truth.frames_with("any")
    objects = ~truth.crowd
    if truth.motion_iou is not None:
        frame, of_range = truth.frame_of_box[objects], in_ranges(truth.motion_iou[objects])
        for name, member in zip(RANGES, of_range.T, strict=True):
            others = np.bincount(frame[~member], minlength=len(truth))
            kinds[name] = (np.bincount(frame, minlength=len(truth)) > 0) & (others == 0)
    return {name: frames for name, frames in kinds.items() if frames[truth.frame_of_box[objects]].any()}
