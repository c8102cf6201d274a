"""The warp of DFF and FGFA: a key frame's map, sampled where the flow says (Zhu et al. 2017, Eq. 1-3).

    warped(p) = sum_q G(q, p + flow(p)) map(q),     G the bilinear kernel

Three conventions are in use for the position p + flow(p) and for samples outside the map. Weights trained with one are
wrong with another, by up to a cell where nothing moves:

==============  ============================  ================================  ================
name            position (x; y likewise)      moves what stands still by        outside
==============  ============================  ================================  ================
``exact``       p + flow                      nothing: the identity             zero
``mega``        (p + flow) w / (w - 1) - 1/2  -1/2 cell (left) to +1/2 (right)  the nearest cell
``mmtracking``  (p + flow) (w - 1) / w        0 (left) to -(w - 1) / w (right)  the nearest cell
==============  ============================  ================================  ================

``exact`` is that of the original DFF and FGFA (MXNet's BilinearSampler).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import unknown

Convention: TypeAlias = Literal["exact", "mega", "mmtracking"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


def warp(key_map: Tensor, flow: Tensor, convention: Convention = "exact") -> Tensor:
    """``key_map`` as each flow sees it: (N, C, h, w) in the map's dtype.

    key_map: (N, C, h, w), or (1, C, h, w) for N flows from one key frame, which is not copied N times.
    flow: (N, 2, h, w) in cells, x before y. Positions are computed in float32 (or the flow's float64) at least.

    Gradients reach both. On a CPU, maps in ``torch.channels_last`` are warped several times faster than others: turn
    a key frame's map once if it is warped often. Raises ``UserError`` for an unknown convention.
    """
    assert len(key_map) in (1, len(flow)), f"{len(key_map)} maps for {len(flow)} flows"
    assert key_map.shape[2:] == flow.shape[2:], (
        f"map {tuple(key_map.shape)} and flow {tuple(flow.shape)} differ in size"
    )
    if convention not in CONVENTIONS:
        raise unknown("warp convention", convention, CONVENTIONS)
    dtype = torch.promote_types(torch.promote_types(key_map.dtype, flow.dtype), torch.float32)
    x, y = sampling_positions(flow.to(dtype), convention)
    sample = _by_rows if key_map.device.type == "cpu" else _by_grid
    return sample(key_map.to(dtype), x, y).to(key_map.dtype)


def sampling_positions(flow: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Where in the key map each cell looks: x and y, each (N, h, w) in cells."""
    height, width = flow.shape[2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = flow[:, 1] + torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    if convention == "exact":
        return x, y
    return _distorted(x, width, convention), _distorted(y, height, convention)


def _distorted(position: Tensor, length: int, convention: Convention) -> Tensor:
    """Where an imported network's convention really looks, the nearest cell for positions outside."""
    if convention == "mega":  # grid over length - 1, read with align_corners=False; a map of one cell has one answer
        position = position * (length / max(length - 1, 1)) - 0.5
    else:  # grid over length, read with align_corners=True
        position = position * ((length - 1) / length)
    return position.clamp(0, length - 1)


def _by_rows(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A weighted sum of four rows of C channels a cell: integer positions give the very values of the map."""
    channels, height, width = maps.shape[1:]
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    rows, weights = [], []
    for row, row_weight in ((top, 1 - bottom_share), (top + 1, bottom_share)):
        for column, column_weight in ((left, 1 - right_share), (left + 1, right_share)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weights.append(row_weight * column_weight * inside)
            # Clamped as integers: a flow that is not finite gives NaN, not a position outside the table.
            rows.append(row.long().clamp(0, height - 1) * width + column.long().clamp(0, width - 1))
    index = torch.stack(rows, dim=-1)  # (N, h, w, 4)
    if len(maps) > 1:
        index = index + torch.arange(len(maps), device=maps.device)[:, None, None, None] * (height * width)
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    summed = F.embedding_bag(
        index.view(-1, 4), table, per_sample_weights=torch.stack(weights, dim=-1).view(-1, 4), mode="sum"
    )
    return summed.view(len(x), height, width, channels).permute(0, 3, 1, 2)


def _by_grid(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The same through ``grid_sample``, one kernel on an accelerator."""
    count, height, width = x.shape
    # align_corners=False, whose normalisation is defined for a map one cell wide too.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    if len(maps) == count:
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    stacked = F.grid_sample(maps, grid.view(1, count * height, width, 2), padding_mode="zeros", align_corners=False)
    return stacked.view(-1, count, height, width).transpose(0, 1)
