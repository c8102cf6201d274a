"""Features without a warp: computed from the key frame's and from a look at both frames (semi-DFF, Table 3a).

The paper says no more than "generative prediction". Here both kinds of prediction look at the frames through the same
flow network; in the place of its heads and the warp stand two convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.flow import FlowNetwork, FlowOutput


@dataclass(frozen=True, slots=True)
class PairFeatures(FlowOutput):
    """A flow network's output that says nothing of motion (zero flow), but what its heads would have read."""

    features: Tensor  # (N, F, h, w)


def describe_pair(network: FlowNetwork, current: Tensor, key: Tensor) -> PairFeatures:
    """current, key: (N, 3, H, W) RGB in 0..1, as ``network`` takes them."""
    features, _ = network.describe(current - network.mean, key - network.mean)
    still = features.new_zeros((len(features), 2, *features.shape[2:]), dtype=torch.float32)
    return PairFeatures(flow=still, scale=None, update=None, features=features)


class FeatureGenerator(nn.Module):
    """(N, F, h, w) features of pairs and (N, C, h, w) maps of the key frames -> (N, C, h, w) of the current ones."""

    def __init__(self, pair_channels: int, map_channels: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(pair_channels + map_channels, hidden, 3, padding=1)
        self.predict = nn.Conv2d(hidden, map_channels, 3, padding=1)
        for layer in (self.mix, self.predict):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, features: Tensor, key_map: Tensor) -> Tensor:
        key_map = key_map.expand(len(features), -1, -1, -1)
        generated: Tensor = self.predict(F.relu(self.mix(torch.cat((features, key_map), dim=1))))
        return generated
