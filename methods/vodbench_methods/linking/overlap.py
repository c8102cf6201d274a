"""IoU of every box of one frame with every box of another, for many pairs of frames at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vodbench.spec import Ints
from vodbench_methods.linking.records import Doubles, Snippet

# Pairs looked at together: ten arrays of as many numbers must stay in the second cache level.
PAIRS_AT_ONCE = 2**13

# Padding: an empty box, which meets nothing whether widths count inclusive pixels or not.
NOTHING = (0.0, 0.0, -1.0, -1.0)


def pairwise_overlap(a: Doubles, b: Doubles, extent: float) -> Doubles:
    """(..., n, m) IoU in [0, 1] of boxes a (..., n, 4) and b (..., m, 4) xyxy; 0 where they do not meet.

    ``extent`` is added to every width and height (1: corners are inclusive pixels, as in ILSVRC and Seq-NMS).
    """
    ax1, ay1, ax2, ay2 = (a[..., :, None, k] for k in range(4))
    bx1, by1, bx2, by2 = (b[..., None, :, k] for k in range(4))
    width = np.minimum(ax2, bx2)
    width -= np.maximum(ax1, bx1)
    width += extent
    np.maximum(width, 0.0, out=width)
    height = np.minimum(ay2, by2)
    height -= np.maximum(ay1, by1)
    height += extent
    np.maximum(height, 0.0, out=height)
    width *= height
    union = (ax2 - ax1 + extent) * (ay2 - ay1 + extent) + (bx2 - bx1 + extent) * (by2 - by1 + extent)
    union -= width
    overlap: Doubles = height
    overlap[...] = 0.0
    np.divide(width, union, out=overlap, where=width > 0)
    return overlap


def padded_rows(rows: Ints, frame: Ints, num_frames: int) -> Ints:
    """(T, n) ``rows`` of one class by frame, -1 after a frame's last; n is the largest frame's number.

    rows (M,) ascending; frame (M,) of each.
    """
    counts = np.bincount(frame, minlength=num_frames)
    first = np.cumsum(counts) - counts
    table = np.full((num_frames, counts.max(initial=0)), -1, np.int64)
    table[frame, np.arange(len(rows)) - first[frame]] = rows
    return table


def padded(boxes: Doubles) -> Doubles:
    """(N + 1, 4): ``NOTHING`` as the last, so that row -1 of a table is an empty box."""
    return np.concatenate([boxes, [NOTHING]])


def overlapping(snippet: Snippet, lag: int, threshold: float, extent: float) -> tuple[Ints, Ints]:
    """Rows (i, j) of same-class boxes, i of frame t and j of frame t + ``lag``, with IoU >= ``threshold``.

    By ascending i, then j. A box does not meet itself (lag 0).
    """
    boxes = padded(snippet.boxes)
    tables = [padded_rows(rows, snippet.frame[rows], snippet.num_frames) for rows in snippet.classes]
    found = [pair for table in tables for pair in _overlapping(boxes, table, lag, threshold, extent)]
    first = np.concatenate([pair[0] for pair in found] or [np.zeros(0, np.int64)])
    second = np.concatenate([pair[1] for pair in found] or [np.zeros(0, np.int64)])
    del found  # pairs are many where candidates are dense
    order = np.argsort(first, kind="stable")  # a merge of one ascending run a class
    return first[order], second[order]


def _overlapping(boxes: Doubles, table: Ints, lag: int, threshold: float, extent: float) -> Iterator[tuple[Ints, Ints]]:
    num_frames, width = table.shape
    at_once = max(1, PAIRS_AT_ONCE // width**2)
    for start in range(0, num_frames - lag, at_once):
        stop = min(start + at_once, num_frames - lag)
        a, b = _narrowed(table[start:stop]), _narrowed(table[start + lag : stop + lag])
        near: npt.NDArray[np.bool_] = pairwise_overlap(boxes[a], boxes[b], extent) >= threshold
        t, i, j = np.nonzero(near)
        first, second = a[t, i], b[t, j]
        apart = first != second
        yield first[apart], second[apart]


def _narrowed(table: Ints) -> Ints:
    """Without the columns that none of its frames fills: a crowded frame elsewhere must not cost here."""
    return table[:, : int((table >= 0).sum(axis=1).max(initial=0))]
