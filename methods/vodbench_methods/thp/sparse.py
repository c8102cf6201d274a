"""Computing a feature network at some positions only, at a cost that follows their number.

A 1x1 convolution of rows is one matrix product; a larger kernel gathers its taps first. Which taps those are is the
same for all layers of one shape, and is worked out once a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.thp.context import Corners, KeyFrameContext
from vodbench_methods.thp.masks import enlarged
from vodbench_methods.thp.rows import Geometry, Level, Matrices, gather, taps
from vodbench_methods.thp.walk import Features, step


@dataclass(frozen=True, slots=True)
class Taps:
    """What the kernels of n active positions read: rows of (active rows, rows of context, zeros)."""

    index: Tensor  # (n, k * k)
    around: Corners  # of the positions that are read but not active


class SparseOperations:
    """``walk`` for one image under a mask.

    Args:
        mask: (h, w) bool at the stride of the whole network's map.
        stride: pixels a cell of ``mask``.
        size: (H, W) of the image.
        context: what inactive positions hold.
        matrices: weights in the form that gathering needs, kept from frame to frame.
    """

    def __init__(
        self, mask: Tensor, stride: int, size: tuple[int, int], context: KeyFrameContext, matrices: Matrices
    ) -> None:
        self._mask, self._stride, self._size = mask, stride, size
        self._context, self._matrices = context, matrices
        self._levels: dict[int, Level] = {}
        self._taps: dict[tuple[int, Geometry], Taps] = {}
        self._read = 0  # maps of context read so far

    def level(self, stride: int) -> Level:
        if stride not in self._levels:
            height, width = (-(-side // stride) for side in self._size)
            self._levels[stride] = Level(enlarged(self._mask, self._stride // stride, height, width))
        return self._levels[stride]

    def first(self, image: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Features:
        _assert_folded(norm)
        geometry = Geometry.of(convolution)
        patches = _patches(image[0], self.level(geometry.stride), geometry)
        values = F.linear(patches, self._matrices.of(convolution), convolution.bias)
        return Features(values.relu_(), geometry.stride)

    def convolve(self, x: Features, convolution: nn.Conv2d, norm: nn.Module | None, *, relu: bool = True) -> Features:
        _assert_folded(norm)
        stride = x.stride * step(convolution)
        if type(convolution) is not nn.Conv2d:
            values = self._everywhere(x, convolution)
        elif convolution.kernel_size == (1, 1):
            values = x.values if stride == x.stride else x.values[self._kept(x.stride, stride)]
            values = F.linear(values, self._matrices.of(convolution), convolution.bias)
        else:
            values = self._product(self._gathered(x, Geometry.of(convolution)), convolution)
        return Features(values.relu_() if relu else values, stride)

    def pool(self, x: Features, pooling: nn.MaxPool2d) -> Features:
        # The zeros of the border stand for minus infinity: what is pooled here is never negative.
        return Features(self._gathered(x, Geometry.of(pooling)).amax(dim=1), x.stride * step(pooling))

    def add(self, x: Features, y: Features) -> Features:
        return Features((x.values + y.values).relu_(), x.stride)

    def _everywhere(self, x: Features, convolution: nn.Conv2d) -> Tensor:
        """Of a layer that may read anywhere (a deformable convolution): all of its input, and all of its output."""
        here, there = self.level(x.stride), self.level(x.stride * step(convolution))
        whole = self._context.dense(self._read, x.stride).flatten(2)
        self._read += 1
        whole.index_copy_(2, here.positions, x.values.t()[None])
        output: Tensor = convolution(whole.view(1, -1, here.height, here.width))
        return output[0].flatten(1)[:, there.positions].t()

    def _kept(self, fine: int, coarse: int) -> Tensor:
        """Features of level ``fine`` that a 1x1 convolution with a stride reads for those of level ``coarse``."""
        here, there = self.level(fine), self.level(coarse)
        y, x = there.positions // there.width, there.positions % there.width
        return here.rows[(y * here.width + x) * (coarse // fine)]

    def _gathered(self, x: Features, geometry: Geometry) -> Tensor:
        """(n, k * k, C) what the kernels at the active positions of the output read."""
        read = self._taps_of(x.stride, geometry)
        around = self._context.sampled(self._read, read.around)
        self._read += 1
        return gather(x.values, around, read.index)

    def _taps_of(self, stride: int, geometry: Geometry) -> Taps:
        if (stride, geometry) not in self._taps:
            source, target = self.level(stride), self.level(stride * geometry.stride)
            index, around = taps(source, target, geometry)
            corners = self._context.corners(stride, source.height, source.width, around)
            self._taps[stride, geometry] = Taps(index, corners)
        return self._taps[stride, geometry]

    def _product(self, gathered: Tensor, convolution: nn.Conv2d) -> Tensor:
        matrix, groups = self._matrices.of(convolution), convolution.groups
        if groups == 1:
            return F.linear(gathered.flatten(1), matrix, convolution.bias)
        count, kernel_area, _ = gathered.shape
        parts = gathered.view(count, kernel_area, groups, -1).permute(2, 0, 1, 3).flatten(2)  # (G, n, k * k * C / G)
        product = torch.bmm(parts, matrix.view(groups, -1, matrix.shape[1]).transpose(1, 2))
        product = product.transpose(0, 1).flatten(1)
        return product if convolution.bias is None else product + convolution.bias


def _patches(image: Tensor, level: Level, geometry: Geometry) -> Tensor:
    """(n, k * k * C) what a kernel reads of a (C, H, W) image for the active positions of its output."""
    assert geometry.dilation == 1, "a patch is read row by row"
    padded = F.pad(image, [geometry.padding] * 4).permute(1, 2, 0).contiguous()
    _, width, channels = padded.shape
    windows = padded.as_strided(
        (level.height, level.width, geometry.kernel, geometry.kernel * channels),
        (geometry.stride * width * channels, geometry.stride * channels, width * channels, 1),
    )
    return windows[level.positions // level.width, level.positions % level.width].flatten(1)


def _assert_folded(norm: nn.Module | None) -> None:
    assert norm is None or isinstance(norm, nn.Identity), "batch norm must be part of its convolution"
