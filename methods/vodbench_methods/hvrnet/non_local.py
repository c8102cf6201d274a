"""HVR-Net's relation module: a non-local block between proposals, embedded Gaussian, one head (Han et al. 2020, Eq. 3).

    a(x, S) = output( softmax( query(x) . key(S) / sqrt(D) ) S )

The values are the raw features S, projected after the weighted sum as in the published code. The caller adds the result
to x. Unlike the object relation module it does not see where the proposals are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.detection.box_head import fully_connected


@dataclass(frozen=True, slots=True)
class Lent:
    """What n proposals offer one module: ``keys`` and ``values``, (n, D) both."""

    keys: Tensor
    values: Tensor

    @staticmethod
    def concatenate(parts: Sequence[Lent]) -> Lent:
        return Lent(torch.cat([p.keys for p in parts]), torch.cat([p.values for p in parts]))


class NonLocal(nn.Module):
    """One module over D-dimensional proposal features. It starts near adding nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = fully_connected(dim, dim), fully_connected(dim, dim)
        self.output = nn.Linear(dim, dim)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def lend(self, features: Tensor) -> Lent:
        """Keys and values of proposals (n, D)."""
        return Lent(self.key(features), features)

    def attend(self, features: Tensor, lent: Lent, allowed: Tensor | None = None) -> Tensor:
        """(Q, D): what proposals (Q, D) gather from n others; ``allowed`` (Q, n) says from which (None: from all).

        Zero for a proposal that may look at none.
        """
        if not len(features) or not len(lent.keys):
            return features * 0.0  # attention over nothing adds nothing, and keeps the graph
        query = self.query(features)
        if allowed is None:
            # With a batch dimension PyTorch takes the kernel that never holds the Q x n weights.
            gathered = F.scaled_dot_product_attention(query[None], lent.keys[None], lent.values[None])[0]
            return cast(Tensor, self.output(gathered))
        some = allowed.any(dim=1, keepdim=True)
        logits = (query @ lent.keys.T / math.sqrt(features.shape[1])).float()
        logits = logits.masked_fill(~allowed & some, -torch.inf)  # rows without any are finite, then weigh nothing
        shares = logits.softmax(dim=1).to(lent.values.dtype)
        return cast(Tensor, self.output(shares @ lent.values) * some)
