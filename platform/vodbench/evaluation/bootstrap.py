"""How certain a mean average precision is: snippets drawn again with replacement.

Frames of one snippet are not independent, so whole snippets are drawn. The matching stays: a resample only changes how
often each snippet's detections and objects count. Detections of a snippet drawn twice stand next to their copies.

Per class, misses after the last hit change nothing and are dropped; a run of misses followed by a run of hits is one
step of the precision-recall curve, because the precision's envelope is constant over consecutive hits. Blocks of steps
are taken from the bottom up, all resamples at once: cumulative counts a snippet times the snippets' multiplicities, in
one matrix product over the few snippets that a block holds, then a running maximum. Nothing larger than a block is
kept. (The delta method is cheaper still and understates the interval.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from vodbench.evaluation.matching import Matching, Outcome
from vodbench.evaluation.overlap import Doubles
from vodbench.spec import Bools, Ints
from vodbench.timing.clock import torch_threads

Counts: TypeAlias = npt.NDArray[np.floating[Any]]

INTERVAL = (2.5, 97.5)  # percentiles: 95%
_STEPS_AT_ONCE = 64  # with 1,000 resamples a block stays in the second-level cache; fewer snippets are in small blocks
_EXACT_IN_SINGLE = 2**24  # single precision counts exactly below, and multiplies twice as fast


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
    snippet_of_frame = np.full(len(frames), -1, np.int32)  # -1: not selected
    snippet_of_frame[frames] = snippet
    drawn = multiplicities(len(used), resamples, seed)
    events = _Events(matching, snippet_of_frame, len(used))
    total, defined = np.zeros(resamples), np.zeros(resamples)
    with torch_threads(1):  # see _product
        for ap in events.resampled(drawn):
            total += np.nan_to_num(ap)
            defined += ~np.isnan(ap)
    samples: Doubles = np.full(resamples, np.nan)
    np.divide(total, defined, out=samples, where=defined > 0)
    return samples


@dataclass(frozen=True, slots=True)
class _Steps:
    """One class: for each hit or miss down to the last hit, by place, its step, its snippet and which of the two."""

    step: Ints
    snippet: npt.NDArray[np.int32]
    hit: Bools


class _Events:
    """The detections of a matching by place, with the snippet they belong to."""

    def __init__(self, matching: Matching, snippet_of_frame: npt.NDArray[np.int32], num_snippets: int) -> None:
        self.matching = matching
        self.snippet = np.repeat(snippet_of_frame, np.diff(matching.found.offsets))[matching.order]
        truth = matching.truth
        snippet = snippet_of_frame[truth.frame_of_box]
        real = ~truth.crowd & (snippet >= 0)
        cells = (truth.labels[real] - 1).astype(np.int64) * num_snippets + snippet[real]
        size = matching.num_classes * num_snippets
        self.positives = np.bincount(cells, minlength=size).reshape(matching.num_classes, num_snippets)

    def resampled(self, drawn: Doubles) -> Iterator[Doubles]:
        """For each class and threshold the (resamples,) APs; NaN where the resample has no object of the class."""
        single = drawn.astype(np.float32)
        positives = _product(self.positives.astype(np.float64), drawn)
        for outcome in self.matching.outcomes:
            for n in np.flatnonzero(self.positives.any(axis=1)):
                steps = self._steps(outcome, int(n) + 1)
                most = len(steps.step) * drawn.max(initial=1)
                blocks = _blocks(steps, single if most < _EXACT_IN_SINGLE else drawn)
                if (points := self.matching.protocol.recall_points) is None:
                    yield _area(blocks, positives[n])
                else:
                    yield _interpolated(blocks, positives[n], np.linspace(0.0, 1.0, points))

    def _steps(self, outcome: Outcome, label: int) -> _Steps:
        begin, end = self.matching.starts[label], self.matching.starts[label + 1]
        hits = _between(outcome.hits, begin, end)
        hits = hits[self.snippet[hits] >= 0]
        stop = hits[-1] + 1 if len(hits) else begin
        snippet = self.snippet[begin:stop]
        hit = np.zeros(stop - begin, bool)
        hit[hits - begin] = True
        counted = snippet >= 0
        ignored = _between(outcome.ignored, begin, stop) - begin
        counted[ignored] = False
        snippet, hit = snippet[counted], hit[counted]
        above = np.flatnonzero(hit) - np.arange(len(hits))  # misses above each hit: a new step wherever it grows
        step_of_hit = np.cumsum(np.diff(above, prepend=-1) > 0) - 1
        step = np.repeat(step_of_hit, np.diff(np.flatnonzero(hit), prepend=-1))  # a miss belongs to the next hit's step
        return _Steps(step, snippet, hit)


class _Counter:
    """How many detections there are down to each step in each resample, a block at a time from the bottom up."""

    def __init__(self, step: Ints, snippet: npt.NDArray[np.int32], weight: Counts) -> None:
        self.step, self.snippet, self.weight = step, snippet, weight
        counts = np.bincount(snippet, minlength=len(weight)).astype(weight.dtype)
        self.reached = _product(counts[None], weight)[0]

    def block(self, first: int, stop: int) -> Counts:
        """(stop - first + 1, resamples): above step ``first``, then down to each step."""
        rows = slice(*np.searchsorted(self.step, [first, stop]))  # steps ascend
        snippet, size = self.snippet[rows], stop - first
        present = np.zeros(len(self.weight), bool)
        present[snippet] = True
        column = np.cumsum(present)[snippet] - 1
        cells = column * size + (self.step[rows] - first)
        counts = np.bincount(cells, minlength=present.sum() * size).reshape(-1, size)
        cumulative = np.zeros((len(counts), size + 1), self.weight.dtype)
        cumulative[:, 1:] = np.cumsum(counts, axis=1)
        result = _product(cumulative.T, self.weight[present])
        self.reached = self.reached - result[-1]
        result += self.reached
        return result


def _blocks(steps: _Steps, weight: Counts) -> Iterator[tuple[Counts, Counts]]:
    """From the bottom up, n steps a block.

    Yields:
        hits: (n + 1, resamples) above the block, then down to each step.
        envelope: (n, resamples) best precision at each step or below.
    """
    all_shown = _Counter(steps.step, steps.snippet, weight)
    all_hits = _Counter(steps.step[steps.hit], steps.snippet[steps.hit], weight)
    best = np.zeros(weight.shape[1], weight.dtype)
    stop = int(steps.step[-1]) + 1 if len(steps.step) else 0
    while stop:
        first = max(0, stop - _STEPS_AT_ONCE)
        hits, shown = all_hits.block(first, stop), all_shown.block(first, stop)
        envelope = hits[1:] / np.maximum(shown[1:], 1)  # counts: where there are none, precision is 0
        for row in envelope[::-1]:  # a row stays in the fastest cache, which no accumulation along the first axis does
            np.maximum(row, best, out=row)
            best = row
        yield hits, envelope
        stop = first


def _area(blocks: Iterator[tuple[Counts, Counts]], positives: Doubles) -> Doubles:
    """(resamples,) area below the envelope; NaN without positives."""
    area = np.zeros(len(positives))
    for hits, envelope in blocks:
        area += np.sum((hits[1:] - hits[:-1]) * envelope, axis=0, dtype=np.float64)
    return np.where(positives > 0, area / np.maximum(positives, 1), np.nan)


def _interpolated(blocks: Iterator[tuple[Counts, Counts]], positives: Doubles, points: Doubles) -> Doubles:
    """(resamples,) mean envelope at recall ``points``, 0 where it is not reached; NaN without positives."""
    needed = _hits_needed(positives, points)
    total = np.zeros(len(positives))
    for hits, envelope in blocks:
        resample, point = np.nonzero((needed > hits[0][:, None]) & (needed <= hits[-1][:, None]))
        # The first step with the hits needed, for all resamples in one search: each has its own stretch of numbers.
        stretch = float(hits[-1].max()) + 1
        down = hits[1:].T + np.arange(len(positives))[:, None] * stretch
        step = np.searchsorted(down.ravel(), needed[resample, point] + resample * stretch) - resample * len(envelope)
        total += np.bincount(resample, envelope[step, resample], minlength=len(total))
    return np.where(positives > 0, total / len(points), np.nan)


def _hits_needed(positives: Doubles, points: Doubles) -> Doubles:
    """(resamples, points) fewest hits whose recall, rounded as hits / positives is, reaches each point."""
    positives = np.maximum(positives, 1)[:, None]
    needed = np.ceil(points * positives)
    needed -= (needed - 1) / positives >= points
    needed += needed / positives < points
    return np.maximum(needed, 1)  # recall 0 has the best precision of all; above the first hit there is none


def _product(a: Counts, b: Counts) -> Counts:
    """a @ b by PyTorch, whose threads can be told from here to be one, as NumPy's cannot: threads that wait for each
    other in thousands of small products are a hundred times slower than one when the machine is busy.
    """
    product: Counts = torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return product


def _between(places: Ints, begin: int, end: int) -> Ints:
    low, high = np.searchsorted(places, [begin, end])
    return places[low:high]
