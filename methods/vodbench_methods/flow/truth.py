"""Known flow, as generated video carries it: pixels, NaN where a point cannot be seen in the other frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(truth: Tensor, size: tuple[int, int]) -> Tensor:
    """``truth`` (..., 2, H, W) of an image that was resized to ``size`` (height, width), in its new pixels.

    Takes the nearest pixel: a mean over a moving edge, or over unknown pixels, is the flow of nothing.
    """
    height, width = truth.shape[-2:]
    rows = _nearest(height, size[0], truth.device)
    columns = _nearest(width, size[1], truth.device)
    ratio = truth.new_tensor([size[1] / width, size[0] / height])
    return truth[..., rows, :][..., columns] * ratio[:, None, None]


def mirrored(truth: Tensor) -> Tensor:
    """``truth`` (..., 2, H, W) of a pair of frames that were both mirrored left to right."""
    return truth.flip(-1) * truth.new_tensor([-1.0, 1.0])[:, None, None]


def pooled(truth: Tensor, stride: int) -> Tensor:
    """The flow of a feature map's cells: (N, 2, ceil(H / stride), ceil(W / stride)), in pixels as ``truth``.

    Cell i of a convolutional map is centred at pixel ``i * stride``; it gets the mean of the known pixels within half
    a stride, NaN where fewer than half of those in the image are known. truth: (N, 2, H, W).
    """
    known = ~torch.isnan(truth).any(dim=1, keepdim=True)
    in_image = torch.ones_like(truth[:, :1])
    share = _window_means(known.to(truth.dtype), stride)
    mean = _window_means(torch.where(known, truth, 0.0), stride) / share
    return torch.where(share >= 0.5 * _window_means(in_image, stride), mean, torch.nan)


def _window_means(x: Tensor, stride: int) -> Tensor:
    """Means over the stride x stride pixels around each cell's centre, zeros around the image."""
    height, width = x.shape[2:]
    rows, columns = -(-height // stride) * stride, -(-width // stride) * stride
    before = stride // 2
    framed = F.pad(x, (before, columns - width, before, rows - height))[..., :rows, :columns]
    return F.avg_pool2d(framed, stride)


def _nearest(length: int, wanted: int, device: torch.device) -> Tensor:
    """The pixel, of ``length``, in which the centre of each of ``wanted`` pixels lies."""
    return ((torch.arange(wanted, device=device) + 0.5) * (length / wanted)).long().clamp(max=length - 1)
