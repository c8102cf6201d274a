"""Average precision from a matching, of everything or of a part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodbench.evaluation.matching import Matching, Outcome
from vodbench.evaluation.overlap import Doubles
from vodbench.spec import Bools, Ints


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of a matching: what an unmatched detection weighs, and which objects count. Matched once, asked often."""

    miss_weight: Doubles | None = None  # (D,) by place; None: each weighs 1
    counted: Bools | None = None  # (M,) objects; a detection that found another one is neither right nor wrong


def on_frames(matching: Matching, frames: Bools) -> Selection:
    """Only what happens in these (F,) frames."""
    return Selection(frames[matching.frame_at_place()].astype(np.float64), frames[matching.truth.frame_of_box])


def num_positives(matching: Matching, selection: Selection) -> Ints:
    """(C,) objects to be found, by class."""
    truth = matching.truth
    positive = ~truth.crowd if selection.counted is None else selection.counted & ~truth.crowd
    return np.bincount(truth.labels[positive], minlength=matching.num_classes + 1)[1:]


def average_precision(matching: Matching, selection: Selection | None = None) -> Doubles:
    """(thresholds, C) AP in [0, 1]; NaN for a class without ground truth."""
    selection = selection or Selection()
    positives = num_positives(matching, selection)
    total = None if selection.miss_weight is None else _running(selection.miss_weight)
    rows = [_of_outcome(matching, outcome, selection, positives, total) for outcome in matching.outcomes]
    return np.stack(rows)


def mean_ap(ap: Doubles) -> float | None:
    """Mean over thresholds and classes that have ground truth; None when no class has."""
    return None if np.isnan(ap).all() else float(np.nanmean(ap))


def misses_before(matching: Matching, outcome: Outcome, weight: Doubles | None, total: Doubles | None) -> Doubles:
    """(H,) weight of the misses of its class that rank above each hit.

    All detections above it less the matched and the ignored among them: no pass over the detections is needed.
    """
    matched = np.sort(np.concatenate([outcome.hits, outcome.ignored]))
    begin = matching.starts[matching.found.labels[matching.order[outcome.hits]]]
    matched_weight = _running(np.ones(len(matched)) if weight is None else weight[matched])
    above = (outcome.hits - begin).astype(np.float64) if total is None else total[outcome.hits] - total[begin]
    taken = matched_weight[np.searchsorted(matched, outcome.hits)] - matched_weight[np.searchsorted(matched, begin)]
    # Sums of fractions cancel to a rounding error; counts are exact.
    return np.maximum(above - taken, 0.0)


def area(hits: Doubles, misses: Doubles, num_positive: float, recall_points: int | None) -> float:
    """AP of one class from cumulative hits and misses at each hit, in descending score.

    The envelope of the precision at hits is the envelope of the whole curve, which only falls in between.
    """
    precision = hits / (hits + misses)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if recall_points is None:
        return float(np.diff(hits, prepend=0.0) @ envelope / num_positive)
    reached = np.searchsorted(hits / num_positive, np.linspace(0.0, 1.0, recall_points), side="left")
    return float(np.append(envelope, 0.0)[reached].mean())


def _of_outcome(
    matching: Matching, outcome: Outcome, selection: Selection, positives: Ints, total: Doubles | None
) -> Doubles:
    misses = misses_before(matching, outcome, selection.miss_weight, total)
    counted = slice(None) if selection.counted is None else selection.counted[outcome.hit_truth]
    places, misses = outcome.hits[counted], misses[counted]
    bounds = np.searchsorted(places, matching.starts)
    result = np.full(matching.num_classes, np.nan)
    for n in np.flatnonzero(positives):
        own = slice(bounds[n + 1], bounds[n + 2])
        hits = np.arange(1.0, own.stop - own.start + 1)
        result[n] = area(hits, misses[own], positives[n], matching.protocol.recall_points)
    return result


def _running(weight: Doubles) -> Doubles:
    """(D + 1,) sum of all before each."""
    return np.concatenate([[0.0], np.cumsum(weight)])
