"""Memory that is used again: to ask the system for fresh pages costs a CPU as much as the product that fills them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor


class Room:
    """Room for one array at a time, of any shape; what it holds is good until the next use."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def array(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uninitialised, on the device and in the number format of ``like``."""
        size = prod(shape)
        held = self._memory
        if held is None or len(held) < size or (held.device, held.dtype) != (like.device, like.dtype):
            held = self._memory = like.new_empty(size)
        return held[:size].view(*shape)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, R, K) of (n, R, D) and (n, D, K); in fresh memory for gradients and mixed precision."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(a.device.type):
            return torch.bmm(a, b)
        return torch.bmm(a, b, out=self.array((len(a), a.shape[1], b.shape[2]), a))

    def taken(self, values: Tensor, dim: int, index: Sequence[int]) -> Tensor:
        """``values`` at ``index`` along a dimension: run by run, of which there should be few."""
        out = self.array([*values.shape[:dim], len(index), *values.shape[dim + 1 :]], values)
        ends = [i for i in range(1, len(index)) if index[i] != index[i - 1] + 1]
        for start, stop in pairwise([0, *ends, len(index)]):
            out.narrow(dim, start, stop - start).copy_(values.narrow(dim, index[start], stop - start))
        return out
