"""Feature networks: an image goes in, conv4 and conv5 come out at one stride.

ResNets are torchvision's, with conv5 brought to stride 16 by dilation 2 ("DC5"); the tiny one is for CPUs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d

from vodbench.errors import UserError
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.detection.state_dicts import fill, is_state_dict, read_plain


class Backbone(nn.Module):
    """(N, 3, H, W) normalised image -> conv4 and conv5, each (N, channels, ceil(H / stride), ceil(W / stride)).

    ``stages`` holds conv1 .. conv5 for freezing. A frozen stage keeps its batch norm statistics.
    """

    c4_channels: int
    c5_channels: int
    num_frozen: int = 0

    def stages(self) -> list[list[nn.Module]]:
        raise NotImplementedError

    def to_c4(self, image: Tensor) -> Tensor:
        """conv1 .. conv4: (N, 3, H, W) normalised image -> (N, c4_channels, h, w)."""
        raise NotImplementedError

    def to_c5(self, c4: Tensor) -> Tensor:
        """conv5: (N, c4_channels, h, w) -> (N, c5_channels, h, w)."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        c4 = self.to_c4(image)
        return c4, self.to_c5(c4)

    def freeze(self, num_stages: int) -> None:
        """No gradient for the first ``num_stages`` of conv1 .. conv5."""
        self.num_frozen = num_stages
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        return [module for stage in self.stages()[: self.num_frozen] for module in stage]


class ResNetBackbone(Backbone):
    """A torchvision ResNet or ResNeXt without its classifier; parameter names are torchvision's."""

    def __init__(
        self, name: str, *, frozen_norm: bool, eps: float, stride_in_1x1: bool, dilate_first_block: bool
    ) -> None:
        super().__init__()
        norm = partial(FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d, eps=eps)
        net = _torchvision_resnet(name, norm)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        if stride_in_1x1:
            for layer in (self.layer2, self.layer3, self.layer4):
                _stride_in_1x1(layer[0])
        _dilate(self.layer4, whole=stride_in_1x1 or dilate_first_block)
        self.c4_channels, self.c5_channels = net.inplanes // 2, net.inplanes

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def to_c4(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        return cast(Tensor, self.layer3(self.layer2(self.layer1(x))))

    def to_c5(self, c4: Tensor) -> Tensor:
        return cast(Tensor, self.layer4(c4))


class TinyBackbone(Backbone):
    """Five 3x3 convolutions with batch norm and ReLU, some 18,000 parameters at width 12.

    conv4 and conv5 have dilation 2, so that a cell sees 31 and 47 px at stride 4.
    """

    def __init__(self, *, width: int, stride: int, frozen_norm: bool, eps: float) -> None:
        super().__init__()
        block = partial(_conv_norm_relu, norm=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d, eps=eps)
        wide = 2 * width
        self.conv1 = block(3, width, stride=2)
        self.conv2 = block(width, wide, stride=2)
        self.conv3 = block(wide, wide, stride=2 if stride >= 8 else 1)
        self.conv4 = block(wide, wide, stride=2 if stride >= 16 else 1, dilation=2)
        self.conv5 = block(wide, wide, dilation=2)
        self.c4_channels = self.c5_channels = wide

    def stages(self) -> list[list[nn.Module]]:
        return [[self.conv1], [self.conv2], [self.conv3], [self.conv4], [self.conv5]]

    def to_c4(self, image: Tensor) -> Tensor:
        # A third faster on a CPU; 8 channels once crashed in oneDNN's backward, so narrow networks go without.
        if image.device.type == "cpu" and self.c4_channels >= 24:
            image = image.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.conv4(self.conv3(self.conv2(self.conv1(image)))))

    def to_c5(self, c4: Tensor) -> Tensor:
        return cast(Tensor, self.conv5(c4))


def build_backbone(config: DetectorConfig) -> Backbone:
    """The backbone of a configuration with random weights and its stages frozen.

    ``config.weights`` is read when training begins, so that a checkpoint can be used where that file is not.
    """
    backbone: Backbone
    frozen_norm, eps = config.frozen_batch_norm, config.batch_norm_eps
    if config.backbone == "tiny":
        backbone = TinyBackbone(width=config.tiny_width, stride=config.tiny_stride, frozen_norm=frozen_norm, eps=eps)
    else:
        backbone = ResNetBackbone(
            config.backbone,
            frozen_norm=frozen_norm,
            eps=eps,
            stride_in_1x1=config.stride_in_1x1,
            dilate_first_block=config.dilate_first_block,
        )
    backbone.freeze(config.frozen_stages)
    return backbone


def load_torchvision_weights(backbone: Backbone, path: str) -> None:
    """Fill ``backbone`` from a torchvision state dict (``torch.save(model.state_dict(), path)``).

    The classifier is left out. ``UserError`` when the file is missing, holds something else, or lacks or adds keys.
    """
    given = read_plain(path, "weights", "a torchvision state dict")
    if not is_state_dict(given):
        raise UserError(f"weights = '{path}' is not a PyTorch state dict; save it as model.state_dict()")
    fill(
        backbone,
        {name: value for name, value in given.items() if not name.startswith("fc.")},
        f"'{path}' does not hold this backbone's torchvision weights",
        "choose the file that fits the backbone",
        optional=lambda name: name.endswith("num_batches_tracked"),
    )


def _torchvision_resnet(name: str, norm: Any) -> torchvision.models.ResNet:
    if name == "resnext101_32x4d":  # torchvision builds it, but has no function for it (and no weights)
        return torchvision.models.ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4, norm_layer=norm)
    return getattr(torchvision.models, name)(weights=None, norm_layer=norm)


def _stride_in_1x1(block: nn.Module) -> None:
    """Move a bottleneck's stride from its 3x3 convolution to the 1x1 before it (basic blocks have none)."""
    if isinstance(block, Bottleneck):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _dilate(layer: nn.Sequential, *, whole: bool) -> None:
    """Take the stride out of conv5 and let it see what it saw before, by dilation 2.

    The 3x3 that strided (first block) read its input undilated and stays so; all 3x3 after it are dilated. With the
    stride in the 1x1, even the first 3x3 comes after it (``whole``); mmdetection dilates it wherever the stride was.
    """
    for index, block in enumerate(layer):
        assert isinstance(block, (BasicBlock, Bottleneck))
        first = block.conv1 if isinstance(block, BasicBlock) else block.conv2
        for convolution in block.modules():
            if isinstance(convolution, nn.Conv2d):
                convolution.stride = (1, 1)
                dilated = index > 0 or convolution is not first or (whole and isinstance(block, Bottleneck))
                if convolution.kernel_size == (3, 3) and dilated:
                    convolution.dilation = convolution.padding = (2, 2)


def _conv_norm_relu(
    inputs: int, outputs: int, *, norm: Any, eps: float, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, norm(outputs, eps=eps), nn.ReLU(inplace=True))
