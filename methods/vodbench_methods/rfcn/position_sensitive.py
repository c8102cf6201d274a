"""Position-sensitive RoI pooling (Dai et al. 2016, R-FCN, Eq. 1): every bin of a RoI reads channels of its own.

Maps are (N, C * k * k, H, W); channel ``(c * k + i) * k + j`` is what output c sees in bin (i, j), rows first. Boxes
are one (n, 4) tensor an image, xyxy pixels of the resized image. The result is (sum n, C, k, k), image after image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

SMALLEST_EXTENT = 0.1  # cells; the original pooling widens RoIs to it


def ps_roi_align(maps: Tensor, boxes: Sequence[Tensor], size: int, stride: int, *, sampling: int) -> Tensor:
    """Mean of ``sampling`` x ``sampling`` bilinear samples a bin; a cell's value sits at its centre (RoIAlign's rule).

    A sample beyond the outer centres by up to a cell takes the border's value; farther out it counts as zero. Values
    and gradients are those of torchvision's ``ps_roi_align``.
    """
    if maps.device.type == "cpu" and not (maps.requires_grad and torch.is_grad_enabled()):
        return _align_by_bags(maps, boxes, size, stride, sampling)
    pooled: Tensor = torchvision.ops.ps_roi_align(
        maps, [b.to(maps.dtype) for b in boxes], size, 1.0 / stride, sampling_ratio=sampling
    )
    return pooled


def ps_roi_pool(maps: Tensor, boxes: Sequence[Tensor], size: int, stride: int) -> Tensor:
    """Mean of the whole cells that a bin touches: R-FCN's own pooling, as its published weights were trained with.

    A RoI goes from ``round(x1) / stride`` to ``(round(x2) + 1) / stride``, halves rounded up, and is at least 0.1 cells
    wide; its bins end at whole cells, outwards, within the map. An empty bin is zero. (torchvision's ``ps_roi_pool``
    rounds elsewhere.)

    From integral images in float64, so that the cost does not depend on the size of the RoIs.
    """
    height, width = maps.shape[2:]
    starts, extents = rounded_extents(torch.cat(list(boxes)), stride)
    left, right = _whole_cells(starts[:, 0], extents[:, 0], size, width)  # (sum n, k)
    top, bottom = _whole_cells(starts[:, 1], extents[:, 1], size, height)
    integral = F.pad(maps.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
    integral = integral.view(len(maps), -1, size, size, height + 1, width + 1)
    counts = torch.tensor([len(b) for b in boxes], device=maps.device)
    image = torch.arange(len(boxes), device=maps.device).repeat_interleave(counts)[:, None, None]
    bins = torch.arange(size, device=maps.device)

    def above_left(row: Tensor, column: Tensor) -> Tensor:
        """(sum n, k, k, C) sums of all cells above and left of a corner."""
        corners: Tensor = integral[image, :, bins[:, None], bins, row[:, :, None], column[:, None, :]]
        return corners

    sums = above_left(bottom, right) - above_left(top, right) - above_left(bottom, left) + above_left(top, left)
    area = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    means = torch.where((area > 0)[..., None], sums / area.clamp(min=1)[..., None], 0.0)
    return means.permute(0, 3, 1, 2).to(maps.dtype)


def rounded_extents(boxes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Where RoIs start and how far they reach, (n, 2) each, x and y in cells, as Caffe's R-FCN has it.

    Halves are rounded up, the last pixel is part of the RoI, and nothing is narrower than 0.1 cells.
    """
    corners = torch.floor(boxes + 0.5)
    starts = corners[:, :2] * (1.0 / stride)
    ends = (corners[:, 2:] + 1.0) * (1.0 / stride)
    return starts, (ends - starts).clamp(min=SMALLEST_EXTENT)


def _whole_cells(start: Tensor, extent: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """(n, bins) first cell of each bin and the one after its last, within a map of ``length`` cells."""
    edges = torch.arange(bins + 1, device=start.device, dtype=start.dtype) * (extent / bins)[:, None] + start[:, None]
    first = edges[:, :-1].floor().clamp(0, length).long()
    after = edges[:, 1:].ceil().clamp(0, length).long()
    return first, torch.maximum(first, after)


def _align_by_bags(maps: Tensor, boxes: Sequence[Tensor], size: int, stride: int, sampling: int) -> Tensor:
    """Bins as weighted sums of a few rows of a table of cells.

    A row holds all C values of a cell side by side; torchvision's CPU kernel fetches them a whole map apart.
    """
    height, width = maps.shape[2:]
    pooled = []
    for image, own in zip(maps, boxes, strict=True):
        scaled = own.to(maps.dtype) / stride - 0.5
        extents = scaled[:, 2:] - scaled[:, :2]
        columns, across = _cells_of_samples(scaled[:, 0], extents[:, 0], size, width, sampling)  # (n, k, 2 s)
        rows, down = _cells_of_samples(scaled[:, 1], extents[:, 1], size, height, sampling)
        cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]  # (n, k, k, 2 s, 2 s)
        weights = down[:, :, None, :, None] * across[:, None, :, None, :]
        first = torch.arange(size * size).view(size, size, 1, 1) * (height * width)
        # A row of the table is one cell as one bin sees it.
        table = image.reshape(-1, size * size, height, width).permute(1, 2, 3, 0).flatten(0, 2).contiguous()
        bags = F.embedding_bag(
            (cells + first).flatten(3).flatten(0, 2),
            table,
            per_sample_weights=weights.flatten(3).flatten(0, 2),
            mode="sum",
        )
        pooled.append(bags.view(len(own), size, size, table.shape[1]).permute(0, 3, 1, 2))
    return torch.cat(pooled)


def _cells_of_samples(start: Tensor, extent: Tensor, bins: int, length: int, sampling: int) -> tuple[Tensor, Tensor]:
    """(n, bins, 2 * sampling) cells along one axis that each bin's samples lie between, and their weights."""
    sample = torch.arange(bins * sampling, dtype=start.dtype).view(bins, sampling) + 0.5
    position = start[:, None, None] + sample * (extent / (bins * sampling))[:, None, None]
    share = ((position >= -1) & (position <= length)).to(start.dtype) / sampling
    position = position.clamp(0, length - 1)
    low = position.floor()
    fraction = position - low
    high = (low + 1).clamp(max=length - 1)
    return torch.cat((low, high), dim=2).long(), torch.cat((share * (1 - fraction), share * fraction), dim=2)
