"""FlowNetC (Dosovitskiy et al. 2015): both images pass the same three layers and are then compared."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.flow.coarse_to_fine import CoarseToFine
from vodbench_methods.flow.correlation import correlation
from vodbench_methods.flow.network import SLOPE, Initialisation, convolution, initialise

_DISPLACEMENT, _STRIDE = 20, 2  # cells of conv3
_CORRELATIONS = 441
_REDIRECTED = 32


class FlowNetC(CoarseToFine):
    """441 correlations of conv3 beside 32 channels of the current frame. See ``CoarseToFine`` for the settings."""

    def __init__(self, *, initialisation: Initialisation | None = "kaiming", **settings: Any) -> None:
        super().__init__(conv3_1_inputs=_CORRELATIONS + _REDIRECTED, **settings)
        self.conv1 = convolution(3, 64, kernel=7, stride=2)
        self.conv2 = convolution(64, 128, kernel=5, stride=2)
        self.conv3 = convolution(128, 256, kernel=5, stride=2)
        self.conv_redirect = convolution(256, _REDIRECTED, kernel=1)
        initialise(self, initialisation)

    def contract(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        # One image for N others is described once.
        conv1 = F.leaky_relu(self.conv1(torch.cat((current, key))), SLOPE)
        conv2 = F.leaky_relu(self.conv2(conv1), SLOPE)
        conv3 = F.leaky_relu(self.conv3(conv2), SLOPE)
        ours, theirs = conv3[: len(current)], conv3[len(current) :]
        count = max(len(current), len(key))
        redirected = F.leaky_relu(self.conv_redirect(ours), SLOPE).expand(count, -1, -1, -1)
        matches = F.leaky_relu(correlation(ours, theirs, displacement=_DISPLACEMENT, stride=_STRIDE), SLOPE)
        return conv2[: len(current)].expand(count, -1, -1, -1), torch.cat((redirected, matches), dim=1)
