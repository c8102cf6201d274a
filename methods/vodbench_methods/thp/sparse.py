"""Computing a feature network at some positions only, at a cost that follows their number.

Maps are rows: (n, C), one row an active position. A 1x1 convolution is one matrix product. A larger kernel gathers its
taps from a table of the active rows, rows of context around them, and a row of zeros for the map's border; which taps
those are is the same for all layers of one shape, and is worked out once a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.thp.context import Corners, KeyFrameContext
from vodbench_methods.thp.masks import enlarged
from vodbench_methods.thp.walk import Features

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
class Taps:
    """What the kernels centred on n active positions read: rows of (active rows, rows of context, zeros)."""

    index: Tensor  # (n, k * k)
    around: Corners  # of the positions that are read but not active


Geometry: TypeAlias = tuple[int, int, int, int, int]  # stride of the input, kernel, stride, padding, dilation


class SparseOperations:
    """``walk`` for one image under a mask.

    Args:
        mask: (h, w) bool at the stride of the whole network's map.
        stride: pixels a cell of ``mask``.
        size: (H, W) of the image.
        context: what inactive positions hold.
        matrices: weights in the form that gathering needs, kept from frame to frame.
    """

    def __init__(self, mask: Tensor, stride: int, size: tuple[int, int], context: KeyFrameContext, matrices: Matrices) -> None:
        self._mask, self._stride, self._size = mask, stride, size
        self._context, self._matrices = context, matrices
        self._levels: dict[int, Level] = {}
        self._taps: dict[Geometry, Taps] = {}
        self._read = 0  # maps of context read so far

    def level(self, stride: int) -> Level:
        if stride not in self._levels:
            height, width = (-(-side // stride) for side in self._size)
            self._levels[stride] = Level(enlarged(self._mask, self._stride // stride, height, width))
        return self._levels[stride]

    def first(self, image: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Features:
        _assert_folded(norm)
        _, kernel, stride, padding, dilation = _geometry(1, convolution)
        assert dilation == 1, "the patches of an image are read in one piece"
        patches = _patches(image[0], self.level(stride), kernel, stride, padding)
        return Features(F.linear(patches, self._matrices.of(convolution), convolution.bias).relu_(), stride)

    def convolve(self, x: Features, convolution: nn.Conv2d, norm: nn.Module | None, *, relu: bool = True) -> Features:
        _assert_folded(norm)
        stride = x.stride * convolution.stride[0]
        if type(convolution) is not nn.Conv2d:
            values = self._everywhere(x, convolution)
        elif convolution.kernel_size == (1, 1):
            values = x.values if stride == x.stride else x.values[self._kept(x.stride, stride)]
            values = F.linear(values, self._matrices.of(convolution), convolution.bias)
        else:
            values = self._product(self._gathered(x, _geometry(x.stride, convolution)), convolution)
        return Features(values.relu_() if relu else values, stride)

    def pool(self, x: Features, pooling: nn.MaxPool2d) -> Features:
        # The zeros of the border stand for minus infinity: what is pooled here is never negative.
        gathered = self._gathered(x, _geometry(x.stride, pooling))
        return Features(gathered.amax(dim=1), x.stride * int(pooling.stride))

    def add(self, x: Features, y: Features) -> Features:
        return Features((x.values + y.values).relu_(), x.stride)

    def _everywhere(self, x: Features, convolution: nn.Conv2d) -> Tensor:
        """Of a layer that may read anywhere (a deformable convolution): all of its input, and all of its output."""
        here, there = self.level(x.stride), self.level(x.stride * convolution.stride[0])
        whole = self._context.dense(self._read, x.stride).flatten(2)
        self._read += 1
        whole.index_copy_(2, here.positions, x.values.t()[None])
        output: Tensor = convolution(whole.unflatten(2, (here.height, here.width)))
        return output[0].flatten(1)[:, there.positions].t()

    def _kept(self, fine: int, coarse: int) -> Tensor:
        """Features of level ``fine`` that a 1x1 convolution with a stride reads for those of level ``coarse``."""
        here, there = self.level(fine), self.level(coarse)
        y, x = there.positions // there.width, there.positions % there.width
        return here.rows[(y * here.width + x) * (coarse // fine)]

    def _gathered(self, x: Features, geometry: Geometry) -> Tensor:
        """(n, k * k, C) what the kernels at the active positions of the output read."""
        taps = self._taps_of(geometry)
        around = self._context.sampled(self._read, taps.around)
        self._read += 1
        table = torch.cat((x.values, around, x.values.new_zeros(1, x.values.shape[1])))
        return F.embedding(taps.index, table)  # copies whole rows, which indexing does not

    def _taps_of(self, geometry: Geometry) -> Taps:
        if geometry not in self._taps:
            source, target = self.level(geometry[0]), self.level(geometry[0] * geometry[2])
            index, around = _taps(source, target, geometry)
            corners = self._context.corners(geometry[0], source.height, source.width, around)
            self._taps[geometry] = Taps(index, corners)
        return self._taps[geometry]

    def _product(self, gathered: Tensor, convolution: nn.Conv2d) -> Tensor:
        matrix, groups = self._matrices.of(convolution), convolution.groups
        if groups == 1:
            return F.linear(gathered.flatten(1), matrix, convolution.bias)
        parts = gathered.unflatten(2, (groups, -1)).permute(2, 0, 1, 3).flatten(2)  # (G, n, k * k * C / G)
        product = torch.bmm(parts, matrix.view(groups, -1, matrix.shape[1]).transpose(1, 2))
        product = product.transpose(0, 1).flatten(1)
        return product if convolution.bias is None else product + convolution.bias


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


def _taps(source: Level, target: Level, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """``Taps.index``, and the positions of ``source`` that are read but not active."""
    _, kernel, stride, padding, dilation = geometry
    width, count = source.width + 2 * padding, len(source.positions)
    rows = F.pad(source.rows.view(source.height, source.width), [padding] * 4, value=_OUTSIDE).flatten()
    steps = torch.arange(kernel, device=rows.device) * dilation
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


def _patches(image: Tensor, level: Level, kernel: int, stride: int, padding: int) -> Tensor:
    """(n, k * k * C) what a kernel reads of a (C, H, W) image for the active positions of its output."""
    padded = F.pad(image, [padding] * 4).permute(1, 2, 0).contiguous()
    _, width, channels = padded.shape
    windows = padded.as_strided(
        (level.height, level.width, kernel, kernel * channels),
        (stride * width * channels, stride * channels, width * channels, 1),
    )
    return windows[level.positions // level.width, level.positions % level.width].flatten(1)


def _geometry(stride: int, layer: nn.Conv2d | nn.MaxPool2d) -> Geometry:
    """Of a square kernel."""
    kernel, step, padding, dilation = (
        value[0] if isinstance(value, tuple) else value
        for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    return stride, int(kernel), int(step), int(padding), int(dilation)


def _assert_folded(norm: nn.Module | None) -> None:
    assert norm is None or isinstance(norm, nn.Identity), "batch norm must be part of its convolution"
