"""Attention to a set of keys in a form that can be joined with that to another set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Attended:
    """Attention to some keys: ``outputs`` (..., H, D / H), ``log_sums`` (..., H) of the softmax, -inf for no key."""

    outputs: Tensor
    log_sums: Tensor

    @staticmethod
    def nothing(rows: Sequence[int], heads: int, width: int, device: torch.device) -> Attended:
        log_sums = torch.full((*rows, heads), -torch.inf, device=device)
        return Attended(torch.zeros(*rows, heads, width, device=device), log_sums)

    def write(self, index: int, other: Attended) -> None:
        self.outputs[index], self.log_sums[index] = other.outputs, other.log_sums

    def joined(self, other: Attended) -> Attended:
        """Attention to the keys of both."""
        share = (other.log_sums - self.log_sums).sigmoid_().nan_to_num_(0.0)  # NaN: neither has a key
        outputs = torch.lerp(self.outputs, other.outputs, share[..., None])
        return Attended(outputs, torch.logaddexp(self.log_sums, other.log_sums))

    def counted(self, copies: int) -> Attended:
        """With every key so many times."""
        return self if copies == 1 else Attended(self.outputs, self.log_sums + math.log(copies))

    def taken(self, index: Sequence[int], dim: int, present: Sequence[bool]) -> Attended:
        """Those at ``index`` along ``dim``; nothing where there is none ``present``."""
        device = self.outputs.device
        chosen = torch.tensor(index, device=device)
        log_sums = self.log_sums.index_select(dim, chosen)
        if not all(present):
            (absent,) = torch.where(~torch.tensor(present, device=device))
            log_sums.index_fill_(dim, absent, -torch.inf)
        return Attended(self.outputs.index_select(dim, chosen), log_sums)
