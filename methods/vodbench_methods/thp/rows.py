"""Active positions of a map as rows, and which of them a kernel reads.

A map is (n, C): one row an active position, rows of the image first. What the kernels centred on these positions read
comes from a table of the active rows, rows for the positions around them, and a row of zeros for the map's border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INACTIVE, _OUTSIDE = -1, -2  # in place of a row


class Level:
    """The active positions of all maps of one stride."""

    def __init__(self, active: Tensor) -> None:
        self.height, self.width = active.shape
        self.active = active

    @cached_property
    def positions(self) -> Tensor:
        """(n,) y * width + x."""
        return self.active.flatten().nonzero().squeeze(1)

    @cached_property
    def rows(self) -> Tensor:
        """(height * width,) row of each position, or ``_INACTIVE``."""
        rows = torch.full((self.height * self.width,), _INACTIVE, dtype=torch.int64, device=self.active.device)
        rows[self.positions] = torch.arange(len(self.positions), device=rows.device)
        return rows


@dataclass(frozen=True, slots=True)
class Geometry:
    """Of a square kernel."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @staticmethod
    def of(layer: nn.Conv2d | nn.MaxPool2d) -> Geometry:
        kernel, stride, padding, dilation = (
            int(value[0] if isinstance(value, tuple) else value)
            for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )
        return Geometry(kernel, stride, padding, dilation)


def taps(source: Level, target: Level, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """What kernels read of ``source`` for the n active positions of ``target``.

    Returns (n, k * k) rows of the table described above, and the (m,) positions around the active ones.
    """
    stride, padding = geometry.stride, geometry.padding
    width, count = source.width + 2 * padding, len(source.positions)
    rows = F.pad(source.rows.view(source.height, source.width), [padding] * 4, value=_OUTSIDE).flatten()
    steps = torch.arange(geometry.kernel, device=rows.device) * geometry.dilation
    corners = (target.positions // target.width * width + target.positions % target.width) * stride
    positions = corners[:, None] + (steps[:, None] * width + steps).flatten()  # (n, k * k) in the padded map
    read = torch.zeros_like(rows, dtype=torch.bool)
    read[positions.flatten()] = True
    around = (read & (rows == _INACTIVE)).nonzero().squeeze(1)
    rows[around] = torch.arange(count, count + len(around), device=rows.device)
    rows[rows == _OUTSIDE] = count + len(around)
    return rows[positions], _without_padding(around, width, padding, source.width)


def _without_padding(positions: Tensor, padded_width: int, padding: int, width: int) -> Tensor:
    return (positions // padded_width - padding) * width + positions % padded_width - padding


def gather(active: Tensor, around: Tensor, index: Tensor) -> Tensor:
    """(n, k * k, C) what ``taps`` names, of (., C) rows at the active positions and around them."""
    table = torch.cat((active, around, active.new_zeros(1, active.shape[1])))
    return F.embedding(index, table)  # copies whole rows, which indexing does not


class Matrices:
    """(outputs, k * k * inputs) weights of convolutions, remade when a weight was written or replaced."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Conv2d, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()

    def of(self, convolution: nn.Conv2d) -> Tensor:
        weight = convolution.weight
        state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        kept = self._kept.get(convolution)
        if kept is None or kept[0] != state:
            kept = state, weight.detach().permute(0, 2, 3, 1).flatten(1)
            self._kept[convolution] = kept
        return kept[1]
