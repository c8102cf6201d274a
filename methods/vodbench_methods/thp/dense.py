"""Computing a feature network everywhere: on key frames, and under a mask in training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.thp.context import KeyFrameContext
from vodbench_methods.thp.masks import enlarged
from vodbench_methods.thp.walk import Features, step


class DenseOperations:
    """``walk`` as the network computes by itself. ``kept``: the inputs of layers that read around a position."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def first(self, image: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Features:
        return Features(F.relu(norm(convolution(image))), step(convolution))

    def convolve(self, x: Features, convolution: nn.Conv2d, norm: nn.Module | None, *, relu: bool = True) -> Features:
        values = x.values if convolution.kernel_size == (1, 1) else self.completed(x)
        values = convolution(values)
        if norm is not None:
            values = norm(values)
        return Features(F.relu(values) if relu else values, x.stride * step(convolution))

    def pool(self, x: Features, pooling: nn.MaxPool2d) -> Features:
        return Features(pooling(self.completed(x)), x.stride * step(pooling))

    def add(self, x: Features, y: Features) -> Features:
        return Features(F.relu(x.values + y.values), x.stride)

    def completed(self, x: Features) -> Tensor:
        """What a layer that reads around a position sees of ``x``."""
        self.kept.append(x.values)
        return x.values


class MaskedOperations(DenseOperations):
    """The same with the context wherever a mask is 0: what ``SparseOperations`` computes, in batches, with gradients.

    mask: (N, 1, h, w) in {0, 1}, at ``stride`` pixels a cell.
    """

    def __init__(self, mask: Tensor, stride: int, context: KeyFrameContext) -> None:
        super().__init__()
        self._mask, self._stride, self._context = mask, stride, context

    def completed(self, x: Features) -> Tensor:
        mask = enlarged(self._mask, self._stride // x.stride, *x.values.shape[2:])
        context = self._context.dense(len(self.kept), x.stride)
        self.kept.append(torch.where(mask > 0, x.values, context))
        return self.kept[-1]
