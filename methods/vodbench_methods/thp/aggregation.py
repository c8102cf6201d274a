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

    def forward(self, earlier: Tensor, own: Tensor) -> Tensor:
        """(N, C, h, w) maps of the frames so far, propagated to these frames, with the frames' own: (N, C, h, w)."""
        return torch.lerp(earlier, own, self.share_of_own(earlier, own))

    def share_of_own(self, earlier: Tensor, own: Tensor) -> Tensor:
        """(N, 1, h, w) w_2: from 1/2 where both maps embed alike to 1 / (1 + exp(-2)) where they are opposite."""
        embeddings = cast(Tensor, self.embedding(torch.cat((earlier, own))))
        of_earlier, of_own = embeddings.chunk(2)
        return torch.sigmoid(1 - F.cosine_similarity(of_earlier, of_own, dim=1))[:, None]
