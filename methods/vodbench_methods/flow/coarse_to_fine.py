"""What FlowNetS and FlowNetC share: from conv3 down to 1/64, and back up with skip connections.

Networks work on images at half resolution and predict flow / 20 of those pixels. All sizes round up.

=========  ================================================  ==================
map        from                                              stride (image)
=========  ================================================  ==================
conv2      the pair (FlowNetS), the current frame (FlowNetC)  8
conv3_1    conv3                                              16
conv4_1    conv3_1                                            32
conv5_1    conv4_1                                            64
conv6_1    conv5_1                                            128
=========  ================================================  ==================

Going up, each map is joined by the deconvolved one below it and by the flow predicted there: 1024, 1026, 770, 386 and
194 channels. The last is averaged down to the detector's stride, and the heads read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.flow.network import IMAGENET_MEAN, SLOPE, FlowHeads, FlowNetwork, ScaledFlow, convolution

OddSizes: TypeAlias = Literal["pad", "crop"]

_PIXELS = 40  # image pixels that an output of 1 stands for: 20 of the halved image
_FINEST = 8  # stride of the 194-channel map
_MULTIPLE = 64  # of the halved image: its size at conv6 is whole


class CoarseToFine(FlowNetwork):
    """FlowNet behind conv3; a subclass makes conv2 and conv3 from the pair and owns the layers before ``conv3_1``.

    odd_sizes: what happens where a halved image is no multiple of 64. ``pad`` adds mean colour at the right and the
    bottom and cuts the result; ``crop`` cuts each deconvolution to its skip connection, as published weights need.
    ``UserError`` for a feature stride other than 8, 16, 32.
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        *,
        feature_stride: int = 16,
        map_channels: int | None = None,
        with_update: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        odd_sizes: OddSizes = "pad",
        conv3_1_inputs: int = 256,
    ) -> None:
        super().__init__(feature_stride=feature_stride, mean=mean)
        self.odd_sizes = odd_sizes
        self.conv3_1 = convolution(conv3_1_inputs, 256)
        self.conv4, self.conv4_1 = convolution(256, 512, stride=2), convolution(512, 512)
        self.conv5, self.conv5_1 = convolution(512, 512, stride=2), convolution(512, 512)
        self.conv6, self.conv6_1 = convolution(512, 1024, stride=2), convolution(1024, 1024)
        self.predict_flow6, self.predict_flow5 = convolution(1024, 2), convolution(1026, 2)
        self.predict_flow4, self.predict_flow3 = convolution(770, 2), convolution(386, 2)
        self.deconv5, self.deconv4 = _deconvolution(1024, 512), _deconvolution(1026, 256)
        self.deconv3, self.deconv2 = _deconvolution(770, 128), _deconvolution(386, 64)
        self.upsample_flow6to5, self.upsample_flow5to4 = _deconvolution(2, 2), _deconvolution(2, 2)
        self.upsample_flow4to3, self.upsample_flow3to2 = _deconvolution(2, 2), _deconvolution(2, 2)
        self.heads = FlowHeads(194, gain=_PIXELS / feature_stride, map_channels=map_channels, with_update=with_update)

    def contract(self, current: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """conv2 and what conv3_1 reads, activated, of halved images."""
        raise NotImplementedError

    def describe(self, current: Tensor, key: Tensor) -> tuple[Tensor, tuple[ScaledFlow, ...]]:
        height, width = current.shape[2:]
        conv2, conv3 = self.contract(self._halved(current), self._halved(key))
        joined, flows = self._expand(conv2, _activated(self.conv3_1, conv3))
        coarse = tuple(
            ScaledFlow(_cut(flow, height, width, stride).float() * _PIXELS, stride)
            for flow, stride in zip(flows, (128, 64, 32, 16), strict=True)
        )
        joined = _cut(joined, height, width, _FINEST)
        return F.avg_pool2d(joined, self.feature_stride // _FINEST, ceil_mode=True), coarse

    def _halved(self, image: Tensor) -> Tensor:
        halved = F.avg_pool2d(image, 2, ceil_mode=True)
        if self.odd_sizes == "crop":
            return halved
        height, width = halved.shape[2:]
        return F.pad(halved, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))

    def _expand(self, conv2: Tensor, conv3: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The 194-channel map, and the flows on the way to it, coarsest first."""
        conv4 = _activated(self.conv4_1, _activated(self.conv4, conv3))
        conv5 = _activated(self.conv5_1, _activated(self.conv5, conv4))
        joined = _activated(self.conv6_1, _activated(self.conv6, conv5))
        flows = []
        for skip, predict, upsample, deconvolve in (
            (conv5, self.predict_flow6, self.upsample_flow6to5, self.deconv5),
            (conv4, self.predict_flow5, self.upsample_flow5to4, self.deconv4),
            (conv3, self.predict_flow4, self.upsample_flow4to3, self.deconv3),
            (conv2, self.predict_flow3, self.upsample_flow3to2, self.deconv2),
        ):
            flow = predict(joined)
            flows.append(flow)
            height, width = skip.shape[2:]
            finer = _activated(deconvolve, joined)[..., :height, :width]
            joined = torch.cat((skip, finer, upsample(flow)[..., :height, :width]), dim=1)
        return joined, flows


def _deconvolution(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def _activated(layer: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(layer(x), SLOPE)


def _cut(x: Tensor, height: int, width: int, stride: int) -> Tensor:
    """The cells of the image itself, without those of its padding."""
    return x[..., : -(-height // stride), : -(-width // stride)]
