"""Anchors of the region proposal network (RPN)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vodbench.spec import Floats


def cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float], stride: int, *, rounded: bool, at_corner: bool = False
) -> Floats:
    """(A, 4) anchors of the cell at the origin, ratio-major; size is sqrt(area), ratio is height / width, in pixels.

    Plain anchors are exact in area and ratio and centred on the cell, or on its
    first pixel (``at_corner``: x = y = 0, as in mmdetection). ``rounded`` is the formula of Caffe's Faster
    R-CNN and mega.pytorch: a base box of one stride is brought to each ratio in whole pixels and then scaled, corners
    inclusive. ``ValueError`` when a ratio rounds to an empty base box.
    """
    size = np.tile(np.asarray(sizes, np.float64), len(ratios))
    ratio = np.repeat(np.asarray(ratios, np.float64), len(sizes))
    if rounded:
        base_width = np.round(np.sqrt(stride * stride / ratio))
        base_height = np.round(base_width * ratio)
        if not (base_width > 0).all() or not (base_height > 0).all():
            raise ValueError(f"anchor ratios {list(ratios)} round to an empty box at stride {stride}")
        half_width, half_height = base_width * size / stride / 2 - 0.5, base_height * size / stride / 2 - 0.5
        centre = (stride - 1) / 2
    else:
        half_width, half_height = size / np.sqrt(ratio) / 2, size * np.sqrt(ratio) / 2
        centre = 0.0 if at_corner else stride / 2 - 0.5
    corners = (centre - half_width, centre - half_height, centre + half_width, centre + half_height)
    return np.stack(corners, axis=1).astype(np.float32)


def grid_anchors(cells: Tensor, stride: int, shape: tuple[int, int]) -> Tensor:
    """(H * W * A, 4) anchors of a feature map of ``shape`` (H, W): rows, then columns, then the cell's own order."""
    height, width = shape
    x = torch.arange(width, device=cells.device, dtype=cells.dtype) * stride
    y = torch.arange(height, device=cells.device, dtype=cells.dtype) * stride
    shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack((shift_x, shift_y, shift_x, shift_y), dim=2).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)
