"""Overlap of boxes, and how much annotated objects move."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]
Boxes: TypeAlias = npt.NDArray[np.floating[Any]]

NEIGHBOUR_FRAMES = 10


def pair_overlap(a: Boxes, b: Boxes, extra: int, over_first: npt.NDArray[np.bool_] | None = None) -> Doubles:
    """IoU of row i of ``a`` with row i of ``b``, (P,) in [0, 1].

    Args:
        a, b: (P, 4) xyxy.
        extra: added to every width and height (1: corners are inclusive pixels).
        over_first: (P,) where true, the intersection is divided by the area of ``a`` alone (COCO's rule for crowds).
    """
    # Column by column: reductions over a last axis of two cost five times as much.
    ax1, ay1, ax2, ay2 = a.T.astype(np.float64)
    bx1, by1, bx2, by2 = b.T.astype(np.float64)
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + extra
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1) + extra
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    area_a = (ax2 - ax1 + extra) * (ay2 - ay1 + extra)
    union = area_a + (bx2 - bx1 + extra) * (by2 - by1 + extra) - intersection
    if over_first is not None:
        union = np.where(over_first, area_a, union)
    overlap: Doubles = np.zeros(len(a))
    np.divide(intersection, union, out=overlap, where=intersection > 0)
    return overlap


def motion_iou(
    boxes: Boxes, snippet: npt.NDArray[Any], frame: npt.NDArray[Any], track: npt.NDArray[Any]
) -> Doubles | None:
    """Mean IoU of each object with itself up to 10 frames before and after (FGFA, section 5.1), (M,).

    Frames in which the track is absent do not count. A track with no neighbour at all gets 0, as the reference reads
    an empty entry. None when no object has a neighbour: there is no motion to speak of (still images). Widths count
    inclusive pixels whatever the protocol, so that an object is slow or fast under all of them.

    Args:
        boxes: (M, 4) xyxy. snippet, frame, track: (M,) integers; a track id is unique within its snippet.
    """
    order = np.lexsort((frame, track, snippet))
    boxes, snippet, frame, track = boxes[order], snippet[order], frame[order].astype(np.int64), track[order]
    total, count = np.zeros(len(order)), np.zeros(len(order))
    for lag in range(1, len(order)):
        distance = frame[lag:] - frame[:-lag]
        near = (track[lag:] == track[:-lag]) & (snippet[lag:] == snippet[:-lag]) & (distance <= NEIGHBOUR_FRAMES)
        first = np.flatnonzero(near)
        if not len(first):
            break
        first = first[distance[first] > 0]
        overlap = pair_overlap(boxes[first], boxes[first + lag], extra=1)
        for side in (first, first + lag):  # indices are unique within a side, so += loses nothing
            total[side] += overlap
            count[side] += 1
    if not count.any():
        return None
    result = np.zeros(len(order))
    result[order] = total / np.maximum(count, 1)
    return result
