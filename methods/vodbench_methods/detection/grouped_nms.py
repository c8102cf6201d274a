"""Non-maximum suppression within many groups of boxes at once: the classes of an image, those of many settings.

A call for each group costs more than the work of a group of few boxes, so all of these take their next decision at the
same time. What stays of a group does not depend on the other groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor

from vodbench.spec import Bools, Floats
from vodbench_methods.detection.boxes import widened

Ints: TypeAlias = npt.NDArray[np.integer[Any]]

FEW_BOXES = 48  # groups of up to so many boxes are done together, on a CPU
_PAIRS_AT_ONCE = 2**17  # about as many as the second cache level holds


def suppress_in_groups(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, extent: float = 0.0) -> Tensor:
    """(N,) flags: whether each box stays in the greedy suppression within its group. Where scores tie, the order of
    torch's default sort of the group decides, as in mega.pytorch.

    boxes (N, 4), scores (N,), groups (N,) int64 in any order.
    """
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return kept
    order = scores.sort(descending=True, stable=True).indices
    order = order[groups[order].sort(stable=True).indices]  # by group, then by descending score
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].cpu().numpy()
    starts = np.cumsum(sizes) - sizes
    _order_ties(order, scores, groups, starts, sizes)
    ordered, ranked = widened(boxes[order], extent), scores[order]
    few = np.flatnonzero(sizes <= (FEW_BOXES if boxes.device.type == "cpu" else 0))
    for group in np.setdiff1d(np.arange(len(sizes)), few):
        own = slice(starts[group], starts[group] + sizes[group])
        best: Tensor = torchvision.ops.nms(ordered[own], ranked[own], threshold)
        kept[order[own][best]] = True
    if len(few):
        places = ordered.numpy()
        stays = np.concatenate([_stay(places, *batch, threshold) for batch in _batches(starts[few], sizes[few])])
        kept[order[torch.from_numpy(stays)]] = True
    return kept


def _order_ties(order: Tensor, scores: Tensor, groups: Tensor, starts: Ints, sizes: Ints) -> None:
    """Sort the groups in which scores tie again, each by itself with torch's default sort, which is not stable."""
    ranked, own = scores[order], groups[order]
    (tied,) = torch.where((ranked[1:] == ranked[:-1]) & (own[1:] == own[:-1]))
    for number in np.unique(np.searchsorted(starts, tied.cpu().numpy(), side="right") - 1):
        group = slice(starts[number], starts[number] + sizes[number])
        members = order[group].sort().values
        order[group] = members[scores[members].sort(descending=True).indices]


def suppress_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, extent: float = 0.0) -> Tensor:
    """What stays within each label: indices by descending score over all labels."""
    (indices,) = torch.where(suppress_in_groups(boxes, scores, labels, threshold, extent))
    return indices[scores[indices].argsort(descending=True, stable=True)]


def _batches(starts: Ints, sizes: Ints) -> Iterator[tuple[Ints, Ints]]:
    """(starts, sizes) of the groups in batches of similar sizes."""
    by_size = np.argsort(sizes, kind="stable")[::-1]
    first = 0
    while first < len(by_size):
        count = max(1, _PAIRS_AT_ONCE // int(sizes[by_size[first]]) ** 2)
        batch = by_size[first : first + count]
        yield starts[batch], sizes[batch]
        first += count


def _stay(boxes: Floats, starts: Ints, sizes: Ints, threshold: float) -> Ints:
    """Rows of the ``boxes`` that stay in groups of consecutive rows, each by descending score."""
    place = np.arange(sizes.max())
    there: Bools = place < sizes[:, None]
    rows = np.where(there, starts[:, None] + place, starts[:, None])  # what is not there is the group's first again
    stays, over = there.copy(), _overlapping(boxes[rows], threshold)
    for n in range(len(place) - 1):
        stays[:, n + 1 :] &= ~(over[:, n, n + 1 :] & stays[:, n, None])
    return rows[stays]


def _overlapping(boxes: Floats, threshold: float) -> Bools:
    """(G, n, n) whether boxes (G, n, 4) of a group overlap by more than the threshold, rounded as torchvision does."""
    x1, y1, x2, y2 = (boxes[..., n] for n in range(4))
    area = (x2 - x1) * (y2 - y1)
    width = np.minimum(x2[:, :, None], x2[:, None]) - np.maximum(x1[:, :, None], x1[:, None])
    height = np.minimum(y2[:, :, None], y2[:, None]) - np.maximum(y1[:, :, None], y1[:, None])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    with np.errstate(invalid="ignore"):  # boxes without extent: 0 / 0 is no overlap
        over: Bools = shared / (area[:, :, None] + area[:, None] - shared) > threshold
    return over
