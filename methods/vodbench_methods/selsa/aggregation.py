"""SELSA's module: attention between proposals by what they show, not by where they are (Wu et al. 2019, Eq. 2-4).

As in mmtracking's ``SelsaAggregator`` (its names in brackets), for H heads of d = D / H features::

    A^h = softmax( query(x)^h . key(s)^h / sqrt(d) )      query [fc_embed], key [ref_fc_embed]
    a(x, S) = output( concat_h  A^h value(S)^h )          value [ref_fc], output [fc]

The similarity is an embedded product, not a cosine. Keys and values depend on the support proposal alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Lent:
    """What support proposals offer: (H, n, D / H) keys and values, one of each a module. A pool is the same, longer."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @staticmethod
    def concatenate(parts: Sequence[Lent]) -> Lent:
        modules = range(len(parts[0].keys))
        return Lent(
            tuple(torch.cat([p.keys[m] for p in parts], dim=1) for m in modules),
            tuple(torch.cat([p.values[m] for p in parts], dim=1) for m in modules),
        )


class SemanticAggregation(nn.Module):
    """One aggregation module over D-dimensional proposal features; linear layers start as PyTorch's do."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{num_heads} heads do not divide {dim} features"
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))

    def lend(self, supports: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (H, n, D / H) of support proposals (n, D)."""
        return self._heads(self.key(supports)), self._heads(self.value(supports))

    def attend(self, features: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(Q, D): what proposals (Q, D) gather from the supports; zero when there are none. The caller adds it."""
        if not len(features) or not keys.shape[1]:
            return features * 0.0  # attention over nothing adds nothing, and keeps the graph
        query = self._heads(self.query(features))
        # With a batch dimension PyTorch takes the kernel that never holds the Q x n weights; the scale is 1 / sqrt(d).
        gathered = F.scaled_dot_product_attention(query[None], keys[None], values[None])[0]
        return self.output(gathered.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    def _heads(self, projected: Tensor) -> Tensor:
        """(n, D) -> (H, n, D / H)."""
        count, dim = projected.shape
        return projected.view(count, self.num_heads, dim // self.num_heads).transpose(0, 1)
