"""What every flow network offers: ``network(current, key) -> FlowOutput``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from vodbench.errors import UserError

Initialisation: TypeAlias = Literal["kaiming", "normal"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
SLOPE = 0.1  # of every LeakyReLU


@dataclass(frozen=True, slots=True)
class FlowOutput:
    """What a network says of N pairs of frames, on the h x w cells of the feature map.

    ``flow``: (N, 2, h, w) float32 in cells, x before y: cell p of the current frame is cell p + flow[p] of the key
    frame, so ``warp(key_map, flow)`` looks like the current frame's map.
    ``scale``: (N, C, h, w), multiplies the warped map (DFF's scale map); None for a network without it.
    ``update``: (N, 1, h, w) logits Q, at most zero where the warped map should be computed anew (THP); None without.
    """

    flow: Tensor
    scale: Tensor | None
    update: Tensor | None


@dataclass(frozen=True, slots=True)
class ScaledFlow:
    """One prediction of a coarse-to-fine network: ``flow`` (N, 2, h, w) in *pixels*, ``stride`` pixels a cell."""

    flow: Tensor
    stride: int


class FlowHeads(nn.Module):
    """Flow (3x3), scale map (1x1) and update logits (3x3) from one feature map.

    The scale map is ``1 + convolution`` with weights that start at zero, the published networks' fixed bias of 1: it
    starts as the identity.
    """

    def __init__(self, channels: int, *, gain: float, map_channels: int | None, with_update: bool) -> None:
        super().__init__()
        self.gain = gain
        self.flow = nn.Conv2d(channels, 2, 3, padding=1)
        self.scale = nn.Conv2d(channels, map_channels, 1, bias=False) if map_channels else None
        self.update = nn.Conv2d(channels, 1, 3, padding=1) if with_update else None

    def forward(self, features: Tensor) -> FlowOutput:
        return FlowOutput(
            flow=self.flow(features).float() * self.gain,
            scale=None if self.scale is None else 1 + self.scale(features),
            update=None if self.update is None else self.update(features).float(),
        )


class FlowNetwork(nn.Module):
    """Base of the flow networks: a feature map for each pair of frames, and heads on it.

    A subclass sets ``heads`` and takes, besides its own, these settings:

    feature_stride: pixels a cell of the detector's map; ``UserError`` for one that is not in ``strides``.
    map_channels: C of the scale map; None leaves it out.
    with_update: whether THP's update logits are predicted.
    mean: subtracted from the images, RGB in 0..1.
    initialisation: see ``initialise``.
    """

    heads: FlowHeads
    strides: ClassVar[tuple[int, ...]]  # of the maps that it can make

    @classmethod
    def check_stride(cls, feature_stride: int) -> None:
        """``UserError`` for a stride that it has no maps of."""
        if feature_stride not in cls.strides:
            raise UserError(
                f"{cls.__name__} has maps of stride {', '.join(map(str, cls.strides))}, not {feature_stride}; choose a "
                "backbone of such a stride, or the flow network 'tiny'"
            )

    def __init__(self, *, feature_stride: int, mean: Sequence[float] = IMAGENET_MEAN) -> None:
        super().__init__()
        self.check_stride(feature_stride)
        self.feature_stride = feature_stride
        # Not in the state dict: it is a setting, and published weights do not hold it.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor

    def forward(self, current: Tensor, key: Tensor) -> FlowOutput:
        """Where the cells of ``current`` are in ``key``.

        current, key: (N, 3, H, W) RGB in 0..1; either may hold one image for N of the other. The maps of the result
        have ceil(H / feature_stride) x ceil(W / feature_stride) cells.
        """
        features, _ = self.describe(current - self.mean, key - self.mean)
        output: FlowOutput = self.heads(features)
        return output

    def pyramid(self, current: Tensor, key: Tensor) -> tuple[ScaledFlow, ...]:
        """Every flow that the network predicts, for training: coarse to fine, the last is that of ``forward``."""
        features, coarse = self.describe(current - self.mean, key - self.mean)
        finest = self.heads(features).flow * self.feature_stride
        return (*coarse, ScaledFlow(finest, self.feature_stride))

    def describe(self, current: Tensor, key: Tensor) -> tuple[Tensor, tuple[ScaledFlow, ...]]:
        """The map that the heads read, at the feature stride, and the coarser flows. Images without their mean."""
        raise NotImplementedError


def pair_channels(current: Tensor, key: Tensor) -> Tensor:
    """Both images of each pair as six channels, the current one first."""
    count = max(len(current), len(key))
    return torch.cat((current.expand(count, -1, -1, -1), key.expand(count, -1, -1, -1)), dim=1)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution whose output has ceil(size / stride) cells."""
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def initialise(network: FlowNetwork, how: Initialisation | None) -> None:
    """Fresh weights; biases zero, and the scale map the identity.

    ``kaiming``: He et al. 2015 for the networks' LeakyReLU; the flow and update heads start at zero, so that an
    untrained network leaves maps where they are. ``normal``: N(0, 0.02) for every weight (semi-DFF). None: as
    the layers come, for weights that are loaded anyway.
    """
    if how is None:
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if how == "normal":
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if network.heads.scale is not None:
        nn.init.zeros_(network.heads.scale.weight)
    if how == "kaiming":
        for head in (network.heads.flow, network.heads.update):
            if head is not None:
                nn.init.zeros_(head.weight)
