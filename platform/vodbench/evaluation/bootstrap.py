"""How certain a mean average precision is: snippets drawn again with replacement.

Frames of one snippet are not independent, so whole snippets are drawn. The matching stays: a resample only changes how
often each snippet's detections and objects count. Detections of a snippet drawn twice stand next to their copies.

Per class, misses after the last hit change nothing and are dropped; a run of misses followed by a run of hits is one
step of the precision-recall curve, because the precision's envelope is constant over consecutive hits. What is left is
a cumulative matrix of runs x snippets, and all resamples are one matrix product with their multiplicities and a running
maximum. (The delta method is cheaper still and understates the interval.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vodbench.evaluation.matching import Matching, Outcome
from vodbench.evaluation.overlap import Doubles
from vodbench.spec import Bools, Ints

Counts: TypeAlias = npt.NDArray[np.floating[Any]]

INTERVAL = (2.5, 97.5)  # percentiles: 95%
_RUNS_AT_ONCE = 2048  # bounds the runs x snippets matrix


def multiplicities(num_snippets: int, resamples: int, seed: int) -> Doubles:
    """(num_snippets, resamples) how often each snippet is drawn; the same for the same arguments."""
    drawn = np.random.default_rng(seed).integers(0, num_snippets, (resamples, num_snippets))
    flat = drawn + np.arange(resamples)[:, None] * num_snippets
    counts = np.bincount(flat.ravel(), minlength=resamples * num_snippets)
    return np.ascontiguousarray(counts.reshape(resamples, num_snippets).T, np.float64)


def interval(samples: Doubles) -> tuple[float, float]:
    """95% percentile interval of the samples that are defined."""
    low, high = np.nanpercentile(samples, INTERVAL)
    return float(low), float(high)


def bootstrap_map(matching: Matching, resamples: int, seed: int, frames: Bools | None = None) -> Doubles:
    """(resamples,) mAP of each resample; the mean is over the classes with ground truth *in the resample*.

    ``frames``: (F,) only these frames, and only snippets that have one. Two methods on the same ground truth, frames
    and seed get the same resamples, so their difference is a paired bootstrap. NaN where a resample has no object.
    """
    frames = np.ones(len(matching.truth), bool) if frames is None else frames
    used, snippet = np.unique(matching.truth.snippet[frames], return_inverse=True)
    if not len(used):
        return np.full(resamples, np.nan)
    snippet_of_frame = np.full(len(frames), -1, np.int64)  # -1: not selected
    snippet_of_frame[frames] = snippet
    drawn = multiplicities(len(used), resamples, seed)
    events = _Events(matching, snippet_of_frame, len(used))
    total, defined = np.zeros(resamples), np.zeros(resamples)
    for ap in events.resampled(drawn):
        total += np.nan_to_num(ap)
        defined += ~np.isnan(ap)
    samples: Doubles = np.full(resamples, np.nan)
    np.divide(total, defined, out=samples, where=defined > 0)
    return samples


@dataclass(frozen=True, slots=True)
class _Steps:
    """One class: for each detection down to the last hit its step, and which of them are hits or misses."""

    step: Ints
    snippet: Ints
    hit: Bools
    miss: Bools


class _Events:
    """The detections of a matching by place, with the snippet they belong to."""

    def __init__(self, matching: Matching, snippet_of_frame: Ints, num_snippets: int) -> None:
        self.matching = matching
        self.num_snippets = num_snippets
        self.snippet = snippet_of_frame[matching.frame_at_place()]
        truth = matching.truth
        snippet = snippet_of_frame[truth.frame_of_box]
        real = ~truth.crowd & (snippet >= 0)
        cells = (truth.labels[real] - 1).astype(np.int64) * num_snippets + snippet[real]
        size = matching.num_classes * num_snippets
        self.positives = np.bincount(cells, minlength=size).reshape(matching.num_classes, num_snippets)

    def resampled(self, drawn: Doubles) -> Iterator[Doubles]:
        """For each class and threshold the (resamples,) APs; NaN where the resample has no object of the class."""
        weight = drawn.astype(np.float32)
        for outcome in self.matching.outcomes:
            for n in np.flatnonzero(self.positives.any(axis=1)):
                positives = self.positives[n] @ drawn
                yield self._of_class(outcome, int(n) + 1, positives, weight)

    def _of_class(self, outcome: Outcome, label: int, positives: Doubles, weight: npt.NDArray[np.float32]) -> Doubles:
        steps = self._steps(outcome, label)
        hits, misses = self._up_to_step(steps, steps.hit, weight), self._up_to_step(steps, steps.miss, weight)
        ap = np.full(len(positives), np.nan)
        some = positives > 0
        if (points := self.matching.protocol.recall_points) is None:
            ap[some] = _areas(hits, misses)[some] / positives[some]
        else:
            recall = hits[:, some] / positives[some]
            ap[some] = _interpolated(recall, _envelope(hits, misses)[:, some], np.linspace(0.0, 1.0, points))
        return ap

    def _steps(self, outcome: Outcome, label: int) -> _Steps:
        begin, end = self.matching.starts[label], self.matching.starts[label + 1]
        hits = _between(outcome.hits, begin, end)
        hits = hits[self.snippet[hits] >= 0]
        stop = hits[-1] + 1 if len(hits) else begin
        snippet = self.snippet[begin:stop]
        hit = np.zeros(stop - begin, bool)
        hit[hits - begin] = True
        miss = snippet >= 0
        for matched in (outcome.hits, outcome.ignored):
            miss[_between(matched, begin, stop) - begin] = False
        above = np.cumsum(miss)[hits - begin]  # misses above each hit: a new step wherever it grows
        step_of_hit = np.cumsum(np.diff(above, prepend=-1) > 0) - 1
        step = np.repeat(step_of_hit, np.diff(hits, prepend=begin - 1))  # a miss belongs to the next hit's step
        return _Steps(step, snippet, hit, miss)

    def _up_to_step(
        self, steps: _Steps, which: Bools, weight: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.floating[Any]]:
        """(steps, resamples) how many of ``which`` there are down to each step in each resample."""
        present, column = np.unique(steps.snippet[which], return_inverse=True)
        step = steps.step[which]
        num_steps = int(steps.step[-1]) + 1 if len(steps.step) else 0
        # Single precision is exact for integers below 2^24, and twice as fast to multiply.
        exact = np.float32 if len(step) * float(weight.max(initial=1)) < 2**24 else np.float64
        weight = weight[present].astype(exact, copy=False)
        result = np.empty((num_steps, weight.shape[1]), exact)
        above = np.zeros(len(present))
        for first in range(0, num_steps, _RUNS_AT_ONCE):
            stop = min(first + _RUNS_AT_ONCE, num_steps)
            rows = slice(*np.searchsorted(step, [first, stop]))  # steps ascend
            cells = (step[rows] - first) * len(present) + column[rows]
            counts = np.bincount(cells, minlength=(stop - first) * len(present)).reshape(stop - first, len(present))
            cumulative = above + np.cumsum(counts, axis=0)
            np.matmul(cumulative.astype(exact), weight, out=result[first:stop])
            above = cumulative[-1]
        return result


def _envelope(hits: Counts, misses: Counts) -> Counts:
    """(steps, resamples) best precision at each step or below, from the hits and misses down to each step.

    Row by row: a row of resamples stays in the fastest cache, which no accumulation along the first axis does.
    """
    envelope = hits / np.maximum(hits + misses, 1)  # counts: where there are none, precision is 0
    for below in range(len(envelope) - 1, 0, -1):
        np.maximum(envelope[below - 1], envelope[below], out=envelope[below - 1])
    return envelope


def _areas(hits: Counts, misses: Counts) -> Doubles:
    """(resamples,) area below the envelope in units of objects; the envelope itself is never stored."""
    area, best = np.zeros(hits.shape[1]), np.zeros(hits.shape[1], hits.dtype)
    shown, gained = np.empty_like(best), np.empty_like(best)
    for step in range(len(hits) - 1, -1, -1):
        np.add(hits[step], misses[step], out=shown)
        np.maximum(shown, 1, out=shown)
        np.divide(hits[step], shown, out=shown)
        np.maximum(best, shown, out=best)
        np.subtract(hits[step], hits[step - 1] if step else 0, out=gained)
        gained *= best
        area += gained
    return area


def _interpolated(recall: Counts, envelope: Counts, points: Doubles) -> Doubles:
    padded = np.concatenate([envelope, np.zeros((1, envelope.shape[1]))])
    columns = range(recall.shape[1])
    return np.array([padded[np.searchsorted(recall[:, r], points), r].mean() for r in columns])


def _between(places: Ints, begin: int, end: int) -> Ints:
    low, high = np.searchsorted(places, [begin, end])
    return places[low:high]
