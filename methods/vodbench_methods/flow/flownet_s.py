"""FlowNetS (Dosovitskiy et al. 2015), as DFF and FGFA use it: 38.68 M parameters, 25 GF at 600 x 1000."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.flow.coarse_to_fine import CoarseToFine
from vodbench_methods.flow.network import SLOPE, Initialisation, convolution, initialise, pair_channels

# Ours -> those of DFF's and FGFA's published files (mega.pytorch keeps MXNet's names, below "flownet."). Their networks
# ran with odd_sizes="crop" on BGR images; a FlowNetS on RGB needs the channels of conv1 turned round, both threes.
PUBLISHED_NAMES = MappingProxyType(
    {
        "conv1": "flow_conv1",
        "predict_flow6": "Convolution1",
        "predict_flow5": "Convolution2",
        "predict_flow4": "Convolution3",
        "predict_flow3": "Convolution4",
        "heads.flow": "Convolution5",
        "heads.scale": "Convolution5_scale",
    }
)


class FlowNetS(CoarseToFine):
    """Both images as six channels. See ``CoarseToFine`` and ``FlowNetwork`` for the settings."""

    def __init__(self, *, initialisation: Initialisation | None = "kaiming", **settings: Any) -> None:
        super().__init__(**settings)
        self.conv1 = convolution(6, 64, kernel=7, stride=2)
        self.conv2 = convolution(64, 128, kernel=5, stride=2)
        self.conv3 = convolution(128, 256, kernel=5, stride=2)
        initialise(self, initialisation)

    def contract(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        conv1 = F.leaky_relu(self.conv1(pair_channels(current, key)), SLOPE)
        conv2 = F.leaky_relu(self.conv2(conv1), SLOPE)
        return conv2, F.leaky_relu(self.conv3(conv2), SLOPE)


def published_name(name: str) -> str:
    """The published name of a FlowNetS weight, e.g. ``heads.flow.bias`` -> ``Convolution5.bias``."""
    layer, _, kind = name.rpartition(".")
    return f"{PUBLISHED_NAMES.get(layer, layer)}.{kind}"
