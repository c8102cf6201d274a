"""Accuracy on slow, medium and fast objects, weighed as in the reference (FGFA's evaluator).

An object outside the range leaves the count of positives, and a detection that found it is neither right nor wrong.
An unmatched detection counts in the range it lies closer to. Its overlaps are taken with the objects of *every*
class in its frame: that is what the reference computes and what reproduces its numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vodbench.evaluation.matching import Matching
from vodbench.evaluation.overlap import Doubles, pair_overlap
from vodbench.evaluation.precision import Selection, average_precision
from vodbench.evaluation.truth import TruthSet
from vodbench.spec import Bools

RANGES = ("slow", "medium", "fast")
_SHARE = 2  # code of "weighs the frame's share"
_FRAMES_AT_ONCE = 8192


def in_ranges(motion_iou: Doubles) -> Bools:
    """(M, 3) slow: above 0.9, medium: 0.7 to 0.9, fast: below 0.7."""
    return np.stack([motion_iou > 0.9, (motion_iou >= 0.7) & (motion_iou <= 0.9), motion_iou < 0.7], axis=1)


def motion_ap(matching: Matching) -> dict[str, Doubles]:
    """Range -> (thresholds, C) AP, NaN for a class without objects in the range. Empty without tracks."""
    motion = matching.truth.motion_iou
    if motion is None:
        return {}
    member = in_ranges(motion)
    code = _codes(matching, member)
    share = _frame_share(matching.truth, member)
    frame = matching.frame_at_place()
    result = {}
    for n, name in enumerate(RANGES):
        weight = _weights(code[n][matching.order], frame, share[:, n])
        result[name] = average_precision(matching, Selection(weight, member[:, n]))
    return result


def _weights(code: npt.NDArray[np.int8], frame: npt.NDArray[np.int32], share: Doubles) -> Doubles:
    """(D,) what an unmatched detection weighs, by place; ``share``: (F,) on a tie."""
    weight: Doubles = code.astype(np.float64)
    tied = np.flatnonzero(code == _SHARE)
    weight[tied] = share[frame[tied]]
    return weight


def _codes(matching: Matching, member: Bools) -> npt.NDArray[np.int8]:
    """(3, D) by detection and range: 1 nearer to an object inside, 0 nearer to one outside, _SHARE neither."""
    found, truth = matching.found, matching.truth
    code = np.empty((len(RANGES), len(found.scores)), np.int8)
    for first in range(0, len(truth), _FRAMES_AT_ONCE):
        stop = min(first + _FRAMES_AT_ONCE, len(truth))
        rows = slice(int(found.offsets[first]), int(found.offsets[stop]))
        best = _best_overlap(matching, member, first, stop)
        for n in range(len(RANGES)):
            one, other = (best[m] for m in range(len(RANGES)) if m != n)
            outside = np.maximum(one, other)
            code[n, rows] = np.where(best[n] == outside, np.int8(_SHARE), best[n] > outside)
    return code


def _best_overlap(matching: Matching, member: Bools, first: int, stop: int) -> Doubles:
    """(3, D') best IoU of each detection of frames first..stop - 1 with an object of each range; -1: there is none."""
    found, truth = matching.found, matching.truth
    low, high = int(found.offsets[first]), int(found.offsets[stop])
    frame = np.repeat(np.arange(first, stop), np.diff(found.offsets[first : stop + 1]))
    num_objects = np.diff(truth.offsets)[frame]
    kind_of = member.argmax(axis=1)
    best = np.full(len(RANGES) * (high - low), -1.0)
    for k in range(int(num_objects.max(initial=0))):  # the k-th object of every frame that has one
        rows = np.flatnonzero(num_objects > k)
        objects = truth.offsets[frame[rows]] + k
        if truth.crowd.any():
            rows, objects = rows[~truth.crowd[objects]], objects[~truth.crowd[objects]]
        overlap = pair_overlap(found.boxes[low + rows], truth.boxes[objects], matching.protocol.extra)
        cell = kind_of[objects] * (high - low) + rows
        best[cell] = np.maximum(best[cell], overlap)
    return best.reshape(len(RANGES), -1)


def _frame_share(truth: TruthSet, member: Bools) -> Doubles:
    """(F, 3) weight on a tie: the share of out-of-range objects; without objects the range's share of all objects.

    The reference stores an empty frame as one object that does not overlap itself, a fast one: so does this share.
    """
    real = ~truth.crowd
    frame = truth.frame_of_box[real]
    total = np.bincount(frame, minlength=len(truth))
    empty = int((total == 0).sum())
    stored = np.array([0, 0, empty]) + member[real].sum(axis=0)
    share = np.empty((len(truth), len(RANGES)))
    for n in range(len(RANGES)):
        outside = np.bincount(frame, weights=~member[real, n], minlength=len(truth))
        share[:, n] = np.where(total > 0, outside / np.maximum(total, 1), stored[n] / max(len(frame) + empty, 1))
    return share
