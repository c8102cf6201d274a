"""How much one box's place matters to another: the geometric weight of Relation Networks.

Hu et al. 2018 (Eq. 5), as used by Deng et al. 2019. For query box i and key box j (centres c, sizes w, h)::

    d = ( log(|cx_i - cx_j| / w_i), log(|cy_i - cy_j| / h_i), log(w_i / w_j), log(h_i / h_j) )
    e = 8 sines then 8 cosines of 100 d / 1000^(k/8), k = 0..7, per coordinate           (64 numbers)
    G = max(0, W_g e + b_g)                                                               (one number a head)

and the logit of the attention is ``log G + q.k / sqrt(d_k)``.

What makes it cheap, exactly: the size terms are differences of logarithms, ``sin(a_i - b_j) = sin a_i cos b_j -
cos a_i sin b_j``, so their share of ``W_g e`` is a matrix product of rank 32 and needs no sine per pair. The centre
terms do not separate and are computed per pair, once for all modules that see the same boxes. Everything here is
float32 whatever the network runs in: in bfloat16 the angles (up to 1,000 rad) are noise.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vodbench_methods.relation.room import Room
from vodbench_methods.relation.waves import NUM_FREQUENCIES, PairWaves, frequencies

Floor: TypeAlias = Literal["max", "add"]
"""How log(0) is avoided. ``max``: max(|d|, 1e-3) and max(G, 1e-6) (Relation Networks). ``add``: |d| + 1e-3 and
G + 1e-6 (mega.pytorch). Weights trained with one are wrong with the other."""

EMBEDDING_DIM = 8 * NUM_FREQUENCIES
_DISTANCE_FLOOR = 1e-3
_WEIGHT_FLOOR = 1e-6
_KEYS_ON_CPU = 4096  # of one query's waves at a time: what the second cache level takes


def centres_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) and sizes (N, 2) of (N, 4) xyxy boxes; sizes count inclusive pixels (x2 - x1 + 1)."""
    boxes = boxes.detach().float()
    low, high = boxes[:, :2], boxes[:, 2:]
    return 0.5 * (low + high), high - low + 1.0


def log_distances(queries: Tensor, keys: Tensor, floor: Floor) -> Tensor:
    """(Q, 2, K): the x and y coordinates of ``d``. Boxes are (Q, 4) and (K, 4) xyxy, all in one pixel space."""
    query_centres, query_sizes = centres_and_sizes(queries)
    key_centres, _ = centres_and_sizes(keys)
    distance = (query_centres[:, :, None] - key_centres.T).abs_()
    distance /= query_sizes[:, :, None]
    distance = distance.clamp_(min=_DISTANCE_FLOOR) if floor == "max" else distance.add_(_DISTANCE_FLOOR)
    return distance.log_()


class GeometricWeights:
    """Geometric weights of queries yet to come on a fixed set of keys: what depends on the keys alone is made once.

    ``keys`` are (K, 4); ``weight`` (H, 64) and ``bias`` (H,) may stack the heads of several modules. Gradients reach
    them, never boxes.
    """

    def __init__(self, keys: Tensor, weight: Tensor, bias: Tensor, floor: Floor, room: Room | None = None) -> None:
        self.keys, self.floor, self.num_heads = keys, floor, len(weight)
        with torch.autocast(keys.device.type, enabled=False):
            half = EMBEDDING_DIM // 2
            self._centre_weight = weight[:, :half].float()
            self._size_mixture, self._bias = _size_mixture(weight[:, half:].float()), bias.float()
            waves = _size_waves(keys).flatten(1)
            self._key_side = torch.cat([waves, waves.new_ones(len(keys), 1)], dim=1).T.contiguous()  # (33, K)
        self._own = room or Room()
        self._blocks: list[tuple[slice, PairWaves]] = []  # of keys

    def __call__(self, queries: Tensor, out: Tensor | None = None) -> Tensor:
        """(H, Q, K) float32, positive: the factor that multiplies exp(q.k / sqrt(d_k)), per head.

        Where no gradient is asked for it lies in ``out`` (see ``array``); without ``out`` it is good until the next
        call, which writes to the same memory: asking the system for fresh pages costs a CPU as much as a matrix product
        does.
        """
        count = len(queries)
        with torch.autocast(queries.device.type, enabled=False):
            query_side = self._query_side(queries)
            with torch.no_grad():
                distances = log_distances(queries, self.keys, self.floor)
            if torch.is_grad_enabled():
                separable = query_side @ self._key_side
                waves = PairWaves(count, queries.device, self._key_side[:0])(distances)
                total = torch.baddbmm(separable, self._centre_weight.expand(count, -1, -1), waves).transpose(0, 1)
                return total.clamp(min=_WEIGHT_FLOOR) if self.floor == "max" else total.relu() + _WEIGHT_FLOOR
            total = self.array(count, self._own) if out is None else out
            self._add_up(total, query_side, distances)
            total = total.transpose(0, 1)
            return total.clamp_(min=_WEIGHT_FLOOR) if self.floor == "max" else total.relu_().add_(_WEIGHT_FLOOR)

    def _query_side(self, queries: Tensor) -> Tensor:
        """(Q, H, 33): what the key's 32 waves and a one are multiplied with."""
        waves = _size_waves(queries).transpose(0, 1)
        # Sums of two products, not a matrix product: these round in one way whatever the number of queries.
        mixed = waves[..., :1] * self._size_mixture[:, :1] + waves[..., 1:] * self._size_mixture[:, 1:]
        mixed = mixed.view(len(waves), len(queries), self.num_heads, 2)
        bias = self._bias[:, None].expand(len(queries), -1, 1)
        return torch.cat([mixed.permute(1, 2, 0, 3).flatten(2), bias], dim=2)

    def array(self, count: int, room: Room) -> Tensor:
        """(count, H, K) in a room; some of its rows are an ``out`` for as many queries."""
        return room.array((count, self.num_heads, len(self.keys)), self._key_side)

    def _add_up(self, total: Tensor, query_side: Tensor, distances: Tensor) -> None:
        """Write size and centre terms to ``total`` (Q, H, K), a block of keys and a few rows at a time, so that the
        waves stay in the cache."""
        weights = torch.cat([self._centre_weight.expand(len(query_side), -1, -1), query_side], dim=2)
        for keys, waves in self._blocks or self._make_blocks():
            parts = (torch.split(t, waves.rows) for t in (total[..., keys], weights, distances[..., keys]))
            for some, weight, distance in zip(*parts, strict=True):
                torch.bmm(weight, waves(distance), out=some)

    def _make_blocks(self) -> list[tuple[slice, PairWaves]]:
        device = self.keys.device
        for keys in evenly(len(self.keys), _KEYS_ON_CPU if device.type == "cpu" else len(self.keys)):
            beside = self._key_side[:, keys]
            self._blocks.append((keys, PairWaves(_rows_of_waves(beside.shape[1], device), device, beside)))
        return self._blocks


@torch.no_grad()
def _size_waves(boxes: Tensor) -> Tensor:
    """(N, 16, 2): sine and cosine of 100 log(w) / 1000^(k/8), then of h.

    In float64 until the waves are taken: the angles of a large box exceed 500 rad, where float32 is off by 3e-5.
    """
    _, sizes = centres_and_sizes(boxes)
    angle = sizes.double().log()[:, :, None] * frequencies(boxes.device)
    return torch.stack([angle.sin(), angle.cos()], dim=3).flatten(1, 2).float()


def _size_mixture(weight: Tensor) -> Tensor:
    """(16, 2, 2 H): makes of the query's sine and cosine, frequency by frequency, what multiplies those of the key.

    With query angle a and key angle b: ``s sin(a - b) + c cos(a - b) = (c sin a - s cos a) sin b + (s sin a + c cos a)
    cos b``.
    """
    sine, cosine = weight.view(-1, 2, 2, NUM_FREQUENCIES).permute(2, 1, 3, 0).flatten(1, 2)  # (16, H) each
    of_sine, of_cosine = torch.stack([cosine, sine], dim=2), torch.stack([-sine, cosine], dim=2)
    return torch.stack([of_sine, of_cosine], dim=1).flatten(2)


def rows_per_chunk(num_keys: int, num_heads: int, device: torch.device) -> int:
    """How many queries to relate at a time: few enough for their pairs to stay in the last cache level (CPU) or in a
    modest share of memory (GPU), many enough for matrix products to run near their best."""
    return _rows(num_keys * num_heads, 2**22 if device.type == "cpu" else 2**27)


def evenly(count: int, size: int) -> list[slice]:
    """Rows 0 .. count - 1 in as few parts of about the same number, ``size`` at most, as there can be; one for none.

    No part is as small as a remainder may be (see ``detection.products``).
    """
    parts = max(1, -(-count // size))
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _rows_of_waves(num_keys: int, device: torch.device) -> int:
    """As many queries as leave the waves in the second cache level (CPU)."""
    return _rows(num_keys * EMBEDDING_DIM // 2, 2**17 if device.type == "cpu" else 2**27)


def _rows(floats_a_row: int, floats: int) -> int:
    return max(1, -(-floats // max(1, floats_a_row)))
