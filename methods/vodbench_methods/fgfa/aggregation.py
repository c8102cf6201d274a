"""Weights by which warped maps are summed up (Zhu et al., FGFA, ICCV 2017, Eq. 2-4).

    w_j(p) = exp( cos( e_j(p), e_i(p) ) ) / sum over frames,     map(p) = sum over frames of w_j(p) map_j(p)

e is a small network's embedding of a map, i the reference frame, p a cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-10  # least length of an embedding, as in the published code


class EmbeddingNetwork(nn.Module):
    """(N, map_channels, h, w) maps -> (N, outputs, h, w) embeddings: 1x1, 3x3 and 1x1 convolutions, ReLU between."""

    def __init__(self, map_channels: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(map_channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, outputs, 1)
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        hidden = F.relu(self.conv2(F.relu(self.conv1(maps))))
        embeddings: Tensor = self.conv3(hidden)
        return embeddings


@dataclass(frozen=True, slots=True)
class Warped:
    """A frame as the reference frame sees it."""

    feature_map: Tensor  # (N, C, h, w)
    embedding: Tensor  # (N, E, h, w)
    copies: int = 1  # how often it counts: the first and last frame of a video stand in for those beyond


def aggregate(reference: Tensor, frames: Iterable[Warped]) -> Tensor:
    """(N, C, h, w): the weighted sum of the maps of ``frames``, at least one.

    reference: (N, E, h, w), the embedding that theirs are compared with.

    The softmax is summed up as frames come, so that no two of them need to be in memory together; a cosine is at most
    1, which makes subtracting the largest one unnecessary.
    """
    total = norm = torch.zeros((), device=reference.device)
    for frame in frames:
        weight = frame.copies * F.cosine_similarity(frame.embedding, reference, dim=1, eps=_EPS).exp()[:, None]
        total = total + weight * frame.feature_map
        norm = norm + weight
    return total / norm
