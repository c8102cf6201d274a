"""Folding of batch norm into the convolution before it."""

from __future__ import annotations

import copy
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

Norm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """An evaluation copy of ``module`` in which every batch norm is part of the convolution registered before it.

    Equal up to float32 rounding: the new weights are computed in float64. ``ValueError`` when a batch norm has no
    convolution just before it among its parent's children.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        before: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                if not isinstance(before, nn.Conv2d) or before.out_channels != len(_running(child.running_mean)):
                    raise ValueError(f"batch norm '{name}' of {type(parent).__name__} does not follow a convolution")
                _absorb(before, child)
                setattr(parent, name, nn.Identity())
            before = child
    return folded


def _absorb(convolution: nn.Conv2d, norm: Norm) -> None:
    """y = (conv(x) - mean) / sqrt(var + eps) * weight + bias, as one convolution."""
    scale = norm.weight.double() / torch.sqrt(_running(norm.running_var).double() + norm.eps)
    bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias.double()
    shift = (bias - _running(norm.running_mean).double()) * scale + norm.bias.double()
    dtype = convolution.weight.dtype
    weight = (convolution.weight.double() * scale[:, None, None, None]).to(dtype)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(dtype), requires_grad=False)


def _running(statistic: Tensor | None) -> Tensor:
    if statistic is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    return statistic


class FoldedCopy:
    """Keeps the folded form of a module up to date: remade when any of its tensors was written or replaced."""

    def __init__(self) -> None:
        self._key: tuple[tuple[int, int], ...] | None = None
        self._folded: nn.Module | None = None

    def of(self, module: nn.Module) -> nn.Module:
        key = tuple((t.data_ptr(), t._version) for t in (*module.parameters(), *module.buffers()))
        if self._folded is None or key != self._key:
            self._folded, self._key = fold_batch_norm(module), key
        return self._folded
