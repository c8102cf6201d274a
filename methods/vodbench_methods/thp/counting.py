"""How many multiply-adds a feature network takes where a mask is 1."""

from __future__ import annotations

from torch import Tensor, nn

from vodbench_methods.thp.masks import enlarged
from vodbench_methods.thp.walk import Features, step


class CountingOperations:
    """``walk`` that computes nothing. mask: (h, w) bool at ``stride`` pixels a cell; size: (H, W) of the image."""

    def __init__(self, mask: Tensor, stride: int, size: tuple[int, int]) -> None:
        self._mask, self._stride, self._size = mask, stride, size
        self.multiply_adds = 0

    def first(self, image: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Features:
        return self.convolve(Features(image, 1), convolution, norm)

    def convolve(self, x: Features, convolution: nn.Conv2d, norm: nn.Module | None, *, relu: bool = True) -> Features:
        stride = x.stride * step(convolution)
        height, width = (-(-side // stride) for side in self._size)
        active = int(enlarged(self._mask, self._stride // stride, height, width).sum())
        self.multiply_adds += active * convolution.weight.numel()
        return Features(x.values, stride)

    def pool(self, x: Features, pooling: nn.MaxPool2d) -> Features:
        return Features(x.values, x.stride * step(pooling))

    def add(self, x: Features, y: Features) -> Features:
        return x
