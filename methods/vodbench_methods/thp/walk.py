"""One walk through a feature network, whoever computes: everywhere, under a mask, or only where the mask says so.

The walk names the layers in order; an ``Operations`` computes them. What a layer reads from around a position (the taps
of a 3x3 convolution or of pooling) must be known at every position, also where nothing is computed; what a 1x1
convolution or a sum reads need not be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vodbench.errors import UserError
from vodbench_methods.detection.backbones import Backbone, ResNetBackbone, TinyBackbone


@dataclass(frozen=True, slots=True)
class Features:
    """A feature map on its way through a network."""

    values: Tensor  # (N, C, h, w); where only n positions are computed, their (n, C) rows
    stride: int  # pixels of the image a cell


class Operations(Protocol):
    """Computes the layers of a network."""

    def first(self, image: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Features:
        """Convolution + norm + ReLU of the (N, 3, H, W) image, which is known everywhere."""
        ...

    def convolve(
        self, x: Features, convolution: nn.Conv2d, norm: nn.Module | None, *, relu: bool = True
    ) -> Features: ...

    def pool(self, x: Features, pooling: nn.MaxPool2d) -> Features: ...

    def add(self, x: Features, y: Features) -> Features:
        """ReLU of the sum."""
        ...


def step(layer: nn.Conv2d | nn.MaxPool2d) -> int:
    """The stride of a layer that has the same in both directions."""
    return int(layer.stride[0] if isinstance(layer.stride, tuple) else layer.stride)


def walk(
    operations: Operations, backbone: Backbone, reduction: nn.Conv2d | None, image: Tensor, *, through_c5: bool
) -> Features:
    """The map of ``image``: conv4, or conv5 and its reduction + ReLU. ``UserError`` for a backbone it does not know."""
    if isinstance(backbone, ResNetBackbone):
        x = _resnet(operations, backbone, image, through_c5=through_c5)
    elif isinstance(backbone, TinyBackbone):
        x = _tiny(operations, backbone, image, through_c5=through_c5)
    else:
        raise UserError(
            f"a {type(backbone).__name__} cannot be updated in parts: use a ResNet, ResNeXt or the tiny backbone"
        )
    return x if reduction is None else operations.convolve(x, reduction, None)


def _resnet(operations: Operations, net: ResNetBackbone, image: Tensor, *, through_c5: bool) -> Features:
    x = operations.pool(operations.first(image, net.conv1, net.bn1), net.maxpool)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4)[: 4 if through_c5 else 3]:
        for block in layer:
            x = _block(operations, block, x)
    return x


def _block(operations: Operations, block: Any, x: Features) -> Features:
    shortcut = x if block.downsample is None else operations.convolve(x, *block.downsample, relu=False)
    if isinstance(block, Bottleneck):
        x = operations.convolve(x, block.conv1, block.bn1)
        x = operations.convolve(x, block.conv2, block.bn2)
        x = operations.convolve(x, block.conv3, block.bn3, relu=False)
    else:
        assert isinstance(block, BasicBlock)
        x = operations.convolve(x, block.conv1, block.bn1)
        x = operations.convolve(x, block.conv2, block.bn2, relu=False)
    return operations.add(x, shortcut)


def _tiny(operations: Operations, net: TinyBackbone, image: Tensor, *, through_c5: bool) -> Features:
    first, *rest = (net.conv1, net.conv2, net.conv3, net.conv4, net.conv5)[: 5 if through_c5 else 4]
    x = operations.first(image, cast(nn.Conv2d, first[0]), first[1])
    for layer in rest:
        x = operations.convolve(x, cast(nn.Conv2d, layer[0]), layer[1])
    return x
