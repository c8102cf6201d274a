"""Detections in the order of the ground truth's frames, and in the order of their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vodbench.detections import DetectionSet
from vodbench.errors import UserError
from vodbench.evaluation.overlap import Boxes
from vodbench.evaluation.truth import TruthSet
from vodbench.spec import Ints

Scores: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """D detections, frame by frame as in a ``TruthSet``: frame f owns rows ``offsets[f]:offsets[f + 1]``."""

    offsets: Ints  # (F + 1,)
    boxes: Boxes  # (D, 4)
    scores: Scores  # (D,)
    labels: npt.NDArray[np.int32]  # (D,)


def align(truth: TruthSet, detections: DetectionSet) -> Found:
    """Bring detections into the truth's frame order.

    ``UserError`` when they were made on other data, when frames are missing or unknown, or for a label without class.
    """
    made_on = detections.provenance.get("data")
    if made_on and truth.fingerprint and made_on != truth.fingerprint:
        raise UserError(
            f"these detections were made on data {made_on}, the ground truth is data {truth.fingerprint}; "
            "detect again on this data, or give the data they were made on"
        )
    if len(detections.labels) and detections.labels.max() > len(truth.classes):
        raise UserError(
            f"the detections hold label {detections.labels.max()}, the data has {len(truth.classes)} classes; "
            "they were made by a method for other classes"
        )
    rows = _rows(truth, detections)
    if np.array_equal(rows, np.arange(len(truth))):
        return Found(detections.offsets, detections.boxes, detections.scores, detections.labels)
    counts = np.diff(detections.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    take = np.arange(offsets[-1]) + np.repeat(detections.offsets[rows] - offsets[:-1], counts)
    return Found(offsets, detections.boxes[take], detections.scores[take], detections.labels[take])


def _rows(truth: TruthSet, detections: DetectionSet) -> Ints:
    """(F,) the detections' row of each of the truth's frames."""
    place = {name: n for n, name in enumerate(truth.snippet_ids)}
    renumber = np.array([place.get(name, -1) for name in detections.snippet_ids], np.int64)
    snippet = renumber[detections.snippet] if len(detections) else np.zeros(0, np.int64)
    there = (snippet << 32) | detections.frame
    wanted = (truth.snippet.astype(np.int64) << 32) | truth.frame
    missing = np.flatnonzero(~np.isin(wanted, there))
    if len(missing):
        first = missing[0]
        raise UserError(
            f"the detections lack {len(missing)} of {len(truth)} frames, the first is frame {truth.frame[first]} of "
            f"snippet '{truth.snippet_ids[truth.snippet[first]]}'; "
            "detect the whole split, or evaluate the snippets detected"
        )
    strange = np.flatnonzero(~np.isin(there, wanted))
    if len(strange):
        first = strange[0]
        raise UserError(
            f"{len(strange)} frames of the detections are not in the ground truth, the first is frame "
            f"{detections.frame[first]} of snippet '{detections.snippet_ids[detections.snippet[first]]}'; "
            "give the split and data they were made on"
        )
    order = np.argsort(there)
    return np.asarray(order[np.searchsorted(there, wanted, sorter=order)], np.int64)


def ranking(scores: Scores, labels: npt.NDArray[np.int32], num_classes: int) -> Ints:
    """(D,) the order by class, then descending score, then position: one class after another, ties as given.

    Single-precision scores are packed with class and position into one 64-bit key: sorting it in place is about ten
    times as fast as a stable sort over two keys, and its low bits are the answer.
    """
    position_bits = max(len(scores) - 1, 1).bit_length()
    if scores.dtype != np.float32 or num_classes.bit_length() + 32 + position_bits > 64:
        return np.lexsort((-scores, labels))
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0: they are equal scores
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    key = labels.astype(np.uint64) << np.uint64(32 + position_bits)
    key |= (~ascending).astype(np.uint64) << np.uint64(position_bits)
    key |= np.arange(len(scores), dtype=np.uint64)
    key.sort()
    key &= np.uint64((1 << position_bits) - 1)
    return key.view(np.int64)
