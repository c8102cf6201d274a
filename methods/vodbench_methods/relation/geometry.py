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

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vodbench_methods.relation.waves import NUM_FREQUENCIES, PairWaves, frequencies

Floor: TypeAlias = Literal["max", "add"]
"""How log(0) is avoided. ``max``: max(|d|, 1e-3) and max(G, 1e-6) (Relation Networks). ``add``: |d| + 1e-3 and
G + 1e-6 (mega.pytorch). Weights trained with one are wrong with the other."""

EMBEDDING_DIM = 8 * NUM_FREQUENCIES
_DISTANCE_FLOOR = 1e-3
_WEIGHT_FLOOR = 1e-6


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

    def __init__(self, keys: Tensor, weight: Tensor, bias: Tensor, floor: Floor) -> None:
        self.keys, self.floor, self.num_heads = keys, floor, len(weight)
        with torch.autocast(keys.device.type, enabled=False):
            half = EMBEDDING_DIM // 2
            self._centre_weight = weight[:, :half].float()
            self._key_side = _size_key_side(_size_waves(keys), weight[:, half:].float(), bias.float()).flatten(1)

    def __call__(self, queries: Tensor) -> Tensor:
        """(H, Q, K) float32, positive: the factor that multiplies exp(q.k / sqrt(d_k)), per head."""
        with torch.autocast(queries.device.type, enabled=False):
            count = len(queries)
            waves = _size_waves(queries)
            query_side = torch.cat([waves, waves.new_ones(count, 1)], dim=1)
            separable = (query_side @ self._key_side).view(count, self.num_heads, len(self.keys))
            total = self._with_centres(separable, queries).transpose(0, 1)
            if total.requires_grad:
                return total.clamp(min=_WEIGHT_FLOOR) if self.floor == "max" else total.relu() + _WEIGHT_FLOOR
            return total.clamp_(min=_WEIGHT_FLOOR) if self.floor == "max" else total.relu_().add_(_WEIGHT_FLOOR)

    def _with_centres(self, total: Tensor, queries: Tensor) -> Tensor:
        """``total`` (Q, H, K) plus the centre terms. Without gradients in place and a few rows at a time."""
        with torch.no_grad():
            distances = log_distances(queries, self.keys, self.floor)
        if total.requires_grad:
            waves = PairWaves(len(queries), len(self.keys), queries.device)(distances)
            return torch.baddbmm(total, self._centre_weight.expand(len(queries), -1, -1), waves)
        rows = _rows_of_waves(len(self.keys), queries.device)
        pairs = PairWaves(min(rows, len(queries)), len(self.keys), queries.device)
        for some, distance in zip(total.split(rows), distances.split(rows), strict=True):
            some.baddbmm_(self._centre_weight.expand(len(some), -1, -1), pairs(distance))
        return total


@torch.no_grad()
def _size_waves(boxes: Tensor) -> Tensor:
    """(N, 32): sin and cos of 100 log(w) / 1000^(k/8), then of h.

    In float64 until the waves are taken: the angles of a large box exceed 500 rad, where float32 is off by 3e-5.
    """
    _, sizes = centres_and_sizes(boxes)
    angle = sizes.double().log()[:, :, None] * frequencies(boxes.device)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def _size_key_side(waves: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(33, H, K): what the query's 32 waves (and a one) are multiplied with.

    With query angle a and key angle b: ``s sin(a - b) + c cos(a - b) = sin a (s cos b + c sin b) + cos a (c cos b -
    s sin b)``.
    """
    sine_weight, cosine_weight = weight.view(-1, 2, 2, NUM_FREQUENCIES).unbind(2)  # (H, 2, 8) each
    sine, cosine = waves.view(-1, 2, 2, NUM_FREQUENCIES).unbind(2)  # (K, 2, 8) each
    sine, cosine = sine[None], cosine[None]
    s, c = sine_weight[:, None], cosine_weight[:, None]
    sides = torch.stack([s * cosine + c * sine, c * cosine - s * sine], dim=3)  # (H, K, 2, 2, 8)
    rows = sides.flatten(2).permute(2, 0, 1)
    return torch.cat([rows, bias[:, None].expand(-1, rows.shape[2])[None]])


def rows_per_chunk(num_keys: int, num_heads: int, device: torch.device) -> int:
    """How many queries to relate at a time: few enough for their pairs to stay in the last cache level (CPU) or in a
    modest share of memory (GPU), many enough for matrix products to run near their best."""
    return _rows(num_keys * num_heads, 2**21 if device.type == "cpu" else 2**27)


def _rows_of_waves(num_keys: int, device: torch.device) -> int:
    """As many queries as leave the waves in the second cache level (CPU)."""
    return _rows(num_keys * EMBEDDING_DIM // 2, 2**17 if device.type == "cpu" else 2**27)


def _rows(floats_a_row: int, floats: int) -> int:
    return max(1, -(-floats // max(1, floats_a_row)))
