"""The correlation layer of FlowNetC (Dosovitskiy et al. 2015, Eq. 1, patches of one cell)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def correlation(current: Tensor, key: Tensor, *, displacement: int, stride: int = 1) -> Tensor:
    """How well each cell of ``current`` fits the cells around it in ``key``: (N, D * D, h, w).

    current, key: (N, C, h, w); either may hold one map for N of the other.
    displacement: farthest cell looked at in each direction, a multiple of ``stride``; stride: cells from one
    displacement to the next; D = 2 * displacement / stride + 1.

    Channel ``j * D + i`` of cell (x, y) is the mean over C of ``current(x, y) * key(x + dx, y + dy)`` with
    ``dx = i * stride - displacement`` and ``dy = j * stride - displacement``; zero where that is outside the map.
    """
    assert displacement >= 0, f"displacement {displacement} is negative"
    assert displacement % stride == 0, f"displacement {displacement} is no multiple of stride {stride}"
    assert current.shape[1:] == key.shape[1:], f"maps {tuple(current.shape)} and {tuple(key.shape)} differ"
    count, (channels, height, width) = max(len(current), len(key)), current.shape[1:]
    per_axis = 2 * displacement // stride + 1
    padded = F.pad(key, [displacement] * 4)
    # Rows of cells as matrices: (N, h, w, C) and (N, h + 2d, C, w + 2d). All pairs of a row are one product, of which
    # the wanted diagonals are read; the products not wanted cost less than D elementwise passes over C channels.
    queries = (current / channels).permute(0, 2, 3, 1)
    keys = padded.permute(0, 2, 1, 3).contiguous()
    planes = []
    for row in range(0, 2 * displacement + 1, stride):
        pairs = torch.matmul(queries, keys[:, row : row + height])  # (N, h, w, w + 2d)
        planes.append(_diagonals(pairs, stride, per_axis))
    return torch.stack(planes, dim=1).view(count, per_axis * per_axis, height, width)


def displacements(displacement: int, stride: int = 1) -> Tensor:
    """(D * D, 2): x and y, in cells, that the channels of ``correlation`` stand for."""
    steps = torch.arange(-displacement, displacement + 1, stride, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((x, y), dim=-1).view(-1, 2)


def _diagonals(pairs: Tensor, stride: int, count: int) -> Tensor:
    """(N, h, w, w + 2d) products -> (N, count, h, w): element i of cell x is the product with cell x + i * stride."""
    pairs = pairs.contiguous()
    images, height, width, padded = pairs.shape
    strides = (height * width * padded, stride, width * padded, padded + 1)
    return pairs.as_strided((images, count, height, width), strides)
