"""The object relation module: attention between proposals, weighted by where they are (Hu et al. 2018, Eq. 1-6).

    f_i = concat_h  sum_j A^h_ij (W_v^h x_j),      A^h_ij = G^h_ij exp(q_i.k_j / sqrt(d)) / sum_j' (...)

The public implementations weigh the raw key features and project the sum; projecting first is the same number
(``(A X) W = A (X W)``, and the rows of A sum to one, so the bias passes) at a sixteenth of the work. Keys and values
depend on the key proposal alone: ``project_keys`` makes them once, ``attend`` uses them as often as needed.

A is computed as ``G * softmax(q.k / sqrt(d))``, normalised again: no logarithm per pair. Since G >= 1e-6 the second
sum cannot vanish; a key is lost only where its logit lies more than 87 below the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vodbench_methods.relation.geometry import EMBEDDING_DIM, Floor, GeometricWeights, rows_per_chunk
from vodbench_methods.relation.room import Room


@dataclass(frozen=True, slots=True)
class KeyValues:
    """What K key proposals offer one module: ``boxes`` (K, 4), ``keys`` and ``values`` (H, K, D / H)."""

    boxes: Tensor
    keys: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def concatenate(parts: Sequence[KeyValues]) -> KeyValues:
        return KeyValues(
            torch.cat([p.boxes for p in parts]),
            torch.cat([p.keys for p in parts], dim=1),
            torch.cat([p.values for p in parts], dim=1),
        )


class ObjectRelation(nn.Module):
    """One relation module over D-dimensional proposal features with H heads of D / H."""

    def __init__(self, dim: int, num_heads: int, floor: Floor = "max") -> None:
        super().__init__()
        assert dim % num_heads == 0, f"{num_heads} heads do not divide {dim} features"
        self.num_heads, self.floor = num_heads, floor
        self.geometry = nn.Linear(EMBEDDING_DIM, num_heads)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        for layer in (self.geometry, self.value):
            nn.init.normal_(layer.weight, std=0.01)
        for layer in (self.query, self.key):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        for layer in (self.geometry, self.query, self.key, self.value):
            nn.init.zeros_(layer.bias)

    def project_keys(self, features: Tensor, boxes: Tensor) -> KeyValues:
        """Keys and values of proposals with ``features`` (K, D) and ``boxes`` (K, 4) xyxy."""
        return KeyValues(boxes, self._heads(self.key(features)), self._heads(self.value(features)))

    def attend(self, features: Tensor, boxes: Tensor, kv: KeyValues, copies: Tensor | None = None) -> Tensor:
        """What queries ``features`` (Q, D), ``boxes`` (Q, 4) gather from the keys: (Q, D), zero when there are none.

        ``copies`` (K,) counts how often each key is in the pool (one when None). The caller adds the result.
        """
        geometry = SharedGeometry([self], kv.boxes)
        size = geometry.rows_per_chunk
        rows = [
            self.attend_weighted(f, geometry(b)[0], kv, copies)
            for f, b in zip(torch.split(features, size), torch.split(boxes, size), strict=True)
        ]
        return torch.cat(rows)

    def attend_weighted(
        self, features: Tensor, geometry: Tensor, kv: KeyValues, copies: Tensor | None = None
    ) -> Tensor:
        """``attend`` with the geometric weights (H, Q, K) at hand (see ``SharedGeometry``)."""
        if len(kv) == 0 or len(features) == 0:
            return features * 0.0  # attention over nothing adds nothing, and keeps the graph
        shares = _times(softmax(self._logits(features, kv)), _weighed(geometry, copies))
        return self.gathered(shares, kv.values).to(features.dtype)

    def gathered(self, shares: Tensor, values: Tensor) -> Tensor:
        """(Q, D) of the values (H, K, D / H), weighed by shares (H, Q, K) that need not sum to one."""
        total = shares.sum(dim=-1, keepdim=True)
        if values.dtype != shares.dtype:  # float16 would lose shares of small geometric weights: normalise first
            return _join(torch.bmm((shares / total).to(values.dtype), values))
        return _join(torch.bmm(shares, values) / total)

    def weights(self, features: Tensor, boxes: Tensor, kv: KeyValues, copies: Tensor | None = None) -> Tensor:
        """(H, Q, K): the attention itself; each row sums to one."""
        (geometry,) = SharedGeometry([self], kv.boxes)(boxes)
        shares = _times(softmax(self._logits(features, kv)), _weighed(geometry, copies))
        return shares / shares.sum(dim=-1, keepdim=True)

    def _logits(self, features: Tensor, kv: KeyValues) -> Tensor:
        return torch.bmm(self.queries(features), kv.keys.transpose(1, 2))

    def queries(self, features: Tensor) -> Tensor:
        """(H, Q, D / H) of (Q, D): a product with a key is a logit."""
        return self._heads(self.query(features) / math.sqrt(features.shape[1] / self.num_heads))

    def _heads(self, projected: Tensor) -> Tensor:
        """(N, D) -> (H, N, D / H)."""
        count, dim = projected.shape
        return projected.view(count, self.num_heads, dim // self.num_heads).transpose(0, 1)


class SharedGeometry:
    """Geometric weights of several modules that see the same boxes, from one embedding of the pairs.

    ``room``: where to write them, for those who make one such after the other.
    """

    def __init__(self, modules: Sequence[ObjectRelation], keys: Tensor, room: Room | None = None) -> None:
        weight = torch.cat([m.geometry.weight for m in modules])
        bias = torch.cat([m.geometry.bias for m in modules])
        self._heads = [m.num_heads for m in modules]
        self._weights = GeometricWeights(keys, weight, bias, modules[0].floor, room)
        self.rows_per_chunk = rows_per_chunk(len(keys), sum(self._heads), keys.device)

    def __call__(self, queries: Tensor) -> tuple[Tensor, ...]:
        """(H, Q, K) for each module; ``queries`` (Q, 4) are best given ``rows_per_chunk`` at a time.

        Good until the next call where no gradient is asked for (see ``GeometricWeights``).
        """
        return torch.split(self._weights(queries), self._heads)

    def of_all(self, queries: Tensor, room: Room | None = None) -> tuple[Tensor, ...]:
        """(H, Q, K) for each module and any number of queries, to keep (in ``room``): for modules that run one after
        the other."""
        chunks = torch.split(queries, self.rows_per_chunk)
        if torch.is_grad_enabled():
            return torch.split(torch.cat([self._weights(chunk) for chunk in chunks], dim=1), self._heads)
        whole = self._weights.array(len(queries), room or Room())
        for chunk, out in zip(chunks, torch.split(whole, self.rows_per_chunk), strict=True):
            self._weights(chunk, out)
        return torch.split(whole.transpose(0, 1), self._heads)


def _weighed(geometry: Tensor, copies: Tensor | None) -> Tensor:
    return geometry if copies is None else geometry * copies


def softmax(logits: Tensor) -> Tensor:
    """In float32, over the last dimension; in the logits' memory when no gradient will ask for them."""
    if torch.is_grad_enabled() or logits.dtype != torch.float32:
        return logits.softmax(dim=-1, dtype=torch.float32)
    return torch.softmax(logits, dim=-1, out=logits)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a * b, in a's memory when no gradient will ask for it."""
    return a * b if torch.is_grad_enabled() else a.mul_(b)


def _join(heads: Tensor) -> Tensor:
    """(H, N, D / H) -> (N, D)."""
    return heads.transpose(0, 1).flatten(1)
