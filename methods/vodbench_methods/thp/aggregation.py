"""Sparsely recursive feature aggregation (Zhu et al., THP, CVPR 2018, Sec. 3.1, Eq. 2).

    F'_k2(p) = w_1(p) W(F'_k1, M)(p) + w_2(p) F_k2(p),     w_j(p) proportional to exp(cosine of the embeddings at p)

F' is a key frame's aggregated map, k1 and k2 are key frames one after the other, and cosines are taken with the
embedding of the new frame's own map, as in FGFA (Zhu et al., ICCV 2017, Eq. 3).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.thp.rows import Geometry, Level, Matrices, gather, taps


class RecursiveAggregation(nn.Module):
    """Embeds maps and takes their weighted mean, position by position.

    The embedding: 1x1 to ``hidden`` channels, ReLU, 3x3, ReLU, 1x1 to ``outputs``.
    """

    def __init__(self, channels: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, outputs, 1),
        )
        self._matrices = Matrices()

    def forward(self, earlier: Tensor, own: Tensor) -> Tensor:
        """(N, C, h, w) maps of the frames so far, propagated to these frames, with the frames' own: (N, C, h, w)."""
        of_earlier, of_own = cast(Tensor, self.embedding(torch.cat((earlier, own)))).chunk(2)
        return torch.lerp(earlier, own, _share_of_own(of_earlier, of_own)[:, None])

    def at(self, cells: Tensor, earlier: Tensor, own: Tensor) -> Tensor:
        """``forward`` of one image where ``cells`` (h, w) is true, at the cost of these; ``earlier`` elsewhere."""
        level, kernel = Level(cells), cast(nn.Conv2d, self.embedding[2])
        index, around = taps(level, level, Geometry.of(kernel))
        of_earlier, of_own = (self._embedded(each, level.positions, around, index) for each in (earlier, own))
        earlier_here, own_here = (each.flatten(2)[0][:, level.positions] for each in (earlier, own))
        joined = torch.lerp(earlier_here, own_here, _share_of_own(of_earlier, of_own))
        return earlier.flatten(2).index_copy(2, level.positions, joined[None]).view_as(earlier)

    def _embedded(self, feature_map: Tensor, positions: Tensor, around: Tensor, index: Tensor) -> Tensor:
        """(n, outputs) embeddings of the (1, C, h, w) map at ``positions``; see ``taps`` for the rest."""
        first, _, kernel, _, last = self.embedding
        rows = feature_map.flatten(2)[0][:, torch.cat((positions, around))].t()
        hidden = F.relu(self._linear(rows, first))
        gathered = gather(hidden[: len(positions)], hidden[len(positions) :], index)
        return self._linear(F.relu(self._linear(gathered.flatten(1), kernel)), last)

    def _linear(self, rows: Tensor, convolution: nn.Module) -> Tensor:
        assert isinstance(convolution, nn.Conv2d)
        return F.linear(rows, self._matrices.of(convolution), convolution.bias)


def _share_of_own(of_earlier: Tensor, of_own: Tensor) -> Tensor:
    """w_2 of embeddings along dimension 1: 1/2 where both are alike, 1 / (1 + exp(-2)) where they are opposite."""
    return torch.sigmoid(1 - F.cosine_similarity(of_earlier, of_own, dim=1))
