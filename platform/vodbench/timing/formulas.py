"""Operations of what torch's counter does not know: torchvision's operators, by the shapes of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
import torchvision  # noqa: F401  # registers its operators

Shape = torch.Size


def _deform_conv2d(x: Shape, weight: Shape, offset: Shape, *_: Any, **__: Any) -> int:
    """A convolution whose taps move: 2 x multiply-adds at each cell of its output, whose size is that of ``offset``."""
    return 2 * prod(weight) * offset[0] * offset[2] * offset[3]


def _deform_conv2d_backward(grad: Shape, x: Shape, weight: Shape, offset: Shape, *_: Any, **__: Any) -> int:
    """Once for the gradient of the taps' values, once for that of the weights."""
    return 2 * _deform_conv2d(x, weight, offset)


# For ``FlopCounterMode(custom_mapping=...)``.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    torch.ops.torchvision.deform_conv2d: _deform_conv2d,
    torch.ops.torchvision._deform_conv2d_backward: _deform_conv2d_backward,
}
