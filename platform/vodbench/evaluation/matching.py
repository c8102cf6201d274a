"""Which detection finds which object: done once, whatever is asked afterwards.

Greedy, per frame and class, by descending score, each detection to the best object that is still free. Frames are
independent, so all frames take their next decision at the same time; a round ends with every frame and class having
given away one object, and there are as many rounds as objects of one class in the fullest frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vodbench.detections import DetectionSet
from vodbench.evaluation.alignment import Found, align, ranking
from vodbench.evaluation.overlap import Doubles, pair_overlap
from vodbench.evaluation.protocols import Protocol
from vodbench.evaluation.truth import TruthSet
from vodbench.spec import Bools, Ints

_FRAMES_AT_ONCE = 8192
_PLACE_BITS = 40  # more detections than memory holds, and 23 bits left for frame and class of a block
_KEYS_AT_ONCE = 4_000_000  # frames x classes of a block: bounds the look-up table when there are many classes


@dataclass(frozen=True, slots=True)
class Outcome:
    """At one IoU threshold: places in ``Matching.order``, ascending. Everything else is a miss."""

    hits: Ints  # (H,) places of right detections
    hit_truth: Ints  # (H,) the object each of them found
    ignored: Ints  # places of detections that are neither right nor wrong


@dataclass(frozen=True, slots=True)
class Matching:
    """Detections against ground truth under one protocol."""

    truth: TruthSet
    found: Found
    protocol: Protocol
    order: Ints  # (D,) detections by class, descending score, position (ties)
    starts: Ints  # (C + 2,) label c owns places starts[c]:starts[c + 1]
    outcomes: tuple[Outcome, ...]  # one a threshold

    @property
    def num_classes(self) -> int:
        return len(self.truth.classes)

    def frame_at_place(self) -> npt.NDArray[np.int32]:
        """(D,) the frame of each place."""
        frames = np.arange(len(self.truth), dtype=np.int32)
        return np.repeat(frames, np.diff(self.found.offsets))[self.order]


def match(truth: TruthSet, detections: DetectionSet, protocol: Protocol) -> Matching:
    """Match once. ``UserError`` when the detections do not belong to this ground truth."""
    found = align(truth, detections)
    num_classes = len(truth.classes)
    order = ranking(found.scores, found.labels, num_classes)
    starts = np.concatenate([[0], np.cumsum(np.bincount(found.labels, minlength=num_classes + 1))])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    blocks = list(_match_blocks(truth, found, place, protocol))
    outcomes = []
    for t in range(len(protocol.thresholds)):
        hits, objects, ignored = (np.concatenate([b[t][part] for b in blocks]) for part in range(3))
        ascending = np.argsort(hits)
        outcomes.append(Outcome(hits[ascending], objects[ascending], np.sort(ignored)))
    return Matching(truth, found, protocol, order, starts, tuple(outcomes))


_Matched = tuple[Ints, Ints, Ints]  # places of hits, the objects they found, places to ignore


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Detections and objects of one frame and class: by frame and class, detection's rank, preferred object."""

    place: Ints  # of the detection
    truth: Ints
    group: Ints  # frame and class
    overlap: Doubles
    crowd: Bools

    def where(self, keep: Bools | Ints) -> _Pairs:
        return _Pairs(*(getattr(self, name)[keep] for name in self.__slots__))


def _match_blocks(truth: TruthSet, found: Found, place: Ints, protocol: Protocol) -> Iterator[list[_Matched]]:
    step = max(1, min(_FRAMES_AT_ONCE, _KEYS_AT_ONCE // (len(truth.classes) + 1)))
    required = [protocol.required(t, truth.boxes) for t in protocol.thresholds]
    taken = np.zeros(len(truth.boxes), bool)
    for first in range(0, max(len(truth), 1), step):
        pairs, surplus = _candidates(truth, found, place, protocol, first, min(first + step, len(truth)))
        matched = []
        for least in required:
            pairs = pairs.where(pairs.overlap >= least[pairs.truth])  # thresholds ascend
            hits, objects = _greedy(pairs.where(~pairs.crowd), taken)
            in_crowd = np.unique(pairs.place[pairs.crowd])
            matched.append((hits, objects, np.concatenate([surplus, np.setdiff1d(in_crowd, hits)])))
        yield matched


def _greedy(pairs: _Pairs, taken: Bools) -> tuple[Ints, Ints]:
    """(places, objects) that belong together. ``taken``: (M,) scratch, all false before and after."""
    place, truth, group = pairs.place, pairs.truth, pairs.group
    hits, objects = [place[:0]], [truth[:0]]
    while len(place):
        starts = np.concatenate([[True], group[1:] != group[:-1]])
        hits.append(place[starts])
        objects.append(truth[starts])
        taken[objects[-1]] = True
        free = ~taken[truth] & (place != hits[-1][np.cumsum(starts) - 1])
        place, truth, group = place[free], truth[free], group[free]
    found = np.concatenate(objects)
    taken[found] = False
    return np.concatenate(hits), found


def _candidates(
    truth: TruthSet, found: Found, place: Ints, protocol: Protocol, first: int, stop: int
) -> tuple[_Pairs, Ints]:
    """Pairs of frames first..stop - 1 that may match, in the order of decision; places of detections over the limit."""
    width = len(truth.classes) + 1
    det_key, det_from = _keys(found.offsets, found.labels, width, first, stop)
    truth_key, truth_from = _keys(truth.offsets, truth.labels, width, first, stop)
    count = np.bincount(truth_key, minlength=(stop - first) * width)
    start = np.cumsum(count) - count
    by_key = np.argsort(truth_key, kind="stable")

    candidate = count[det_key] > 0
    surplus = _surplus(det_key, place[det_from : det_from + len(det_key)], protocol.max_detections)
    candidate[surplus] = False
    rows = np.flatnonzero(candidate)
    repeats = count[det_key[rows]]
    within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    rows = np.repeat(rows, repeats)
    group = det_key[rows]
    objects = by_key[start[group] + within] + truth_from
    rows += det_from
    crowd = truth.crowd[objects]
    overlap = pair_overlap(found.boxes[rows], truth.boxes[objects], protocol.extra, crowd)
    pairs = _Pairs(place[rows], objects, group, overlap, crowd)
    # What is below the lowest threshold can be forgotten before sorting.
    pairs = pairs.where(overlap >= protocol.required(protocol.thresholds[0], truth.boxes)[objects])
    return _in_order_of_decision(pairs, protocol), place[surplus + det_from]


def _in_order_of_decision(pairs: _Pairs, protocol: Protocol) -> _Pairs:
    """Sort by one packed key, then only what one detection could choose between: most have no choice."""
    key = (pairs.group << _PLACE_BITS) | pairs.place
    order = np.argsort(key, kind="stable")
    ascending = key[order]
    same = ascending[1:] == ascending[:-1]
    choice = np.zeros(len(order), bool)
    choice[1:] |= same
    choice[:-1] |= same
    undecided = order[choice]
    preference = -pairs.truth[undecided] if protocol.last_of_equals else pairs.truth[undecided]
    order[choice] = undecided[np.lexsort((preference, -pairs.overlap[undecided], key[undecided]))]
    return pairs.where(order)


def _keys(offsets: Ints, labels: npt.NDArray[np.int32], width: int, first: int, stop: int) -> tuple[Ints, int]:
    """((K,) frame and class of the rows of frames first..stop - 1, the first row)."""
    low, high = int(offsets[first]), int(offsets[stop])
    frame = np.repeat(np.arange(stop - first), np.diff(offsets[first : stop + 1]))
    return frame * width + labels[low:high], low


def _surplus(key: Ints, place: Ints, most: int | None) -> Ints:
    """Rows beyond the ``most`` best of their frame and class."""
    if most is None:
        return key[:0]
    crowded = np.flatnonzero(np.bincount(key)[key] > most) if len(key) else key
    order = crowded[np.lexsort((place[crowded], key[crowded]))]
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[rank >= most]
