"""RoIAlign (He et al. 2017, Mask R-CNN), forward and backward fast on a CPU.

Bilinear interpolation and averaging are separable, so a RoI's bins are ``rows @ map @ columns`` with two small sparse
matrices. torchvision's CPU backward scatters pixel by pixel and took 65% of a training step; two matrix products halve
the step. Inference and GPUs use torchvision's own kernel, which computes the same values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor


def roi_align(
    features: Tensor, boxes: Sequence[Tensor], size: int, stride: int, *, sampling: int, aligned: bool
) -> Tensor:
    """(sum n, C, size, size) bins of ``boxes`` (one (n, 4) tensor an image, image pixels) in (N, C, H, W) features.

    ``sampling``: samples a bin and direction; 0 takes ``ceil`` of the bin's width in cells. ``aligned`` shifts by half
    a cell, so that a cell's value sits at its centre; without it, a RoI is at least one cell wide.
    """
    if features.device.type == "cpu" and features.requires_grad and torch.is_grad_enabled():
        return _by_matrices(features, boxes, size, stride, sampling=sampling, aligned=aligned)
    pooled: Tensor = torchvision.ops.roi_align(
        features, [b.to(features.dtype) for b in boxes], size, 1.0 / stride, sampling_ratio=sampling, aligned=aligned
    )
    return pooled


def _by_matrices(
    features: Tensor, boxes: Sequence[Tensor], size: int, stride: int, *, sampling: int, aligned: bool
) -> Tensor:
    channels, height, width = features.shape[1:]
    counts = [len(rois) for rois in boxes]
    scaled = torch.cat(list(boxes)) / stride - (0.5 if aligned else 0.0)
    extents = scaled[:, 2:] - scaled[:, :2]
    if not aligned:
        extents = extents.clamp(min=1.0)
    columns = _bin_weights(scaled[:, 0], extents[:, 0], size, width, sampling)  # (sum n, size, W)
    rows = _bin_weights(scaled[:, 1], extents[:, 1], size, height, sampling)  # (sum n, size, H)
    # Rows: one (n * size, H) @ (H, W * C) an image; the map is laid out so already in channels_last.
    by_row = torch.cat(
        [
            own.flatten(0, 1) @ image.permute(1, 2, 0).reshape(height, width * channels)
            for image, own in zip(features, torch.split(rows, counts), strict=True)
        ]
    )
    bins = columns[:, None] @ by_row.view(len(columns), size, width, channels)  # (sum n, size, size, C)
    return bins.permute(0, 3, 1, 2)


def _bin_weights(start: Tensor, extent: Tensor, bins: int, length: int, sampling: int) -> Tensor:
    """(n, bins, length): how much each cell of one axis weighs in each bin. A sample outside [-1, length] adds nothing.

    start, extent: (n,) in cells.
    """
    bin_width = extent / bins
    counts = torch.full_like(bin_width, sampling) if sampling else bin_width.ceil().clamp(min=0)
    most = int(counts.max()) if len(counts) else 0
    divisor = counts.clamp(min=1)[:, None]  # a RoI without extent takes no sample and stays zero
    sample = torch.arange(most, device=start.device, dtype=start.dtype)
    within_bin = (sample + 0.5)[None, :] / divisor  # (n, most), in bin widths
    position = torch.arange(bins, device=start.device, dtype=start.dtype)[None, :, None] + within_bin[:, None, :]
    position = start[:, None, None] + position * bin_width[:, None, None]  # (n, bins, most)
    used = (sample[None, :] < counts[:, None])[:, None, :] & (position >= -1) & (position <= length)
    share = used.to(start.dtype) / divisor[:, None]

    position = position.clamp(0, length - 1)
    low = position.floor()
    fraction = position - low
    lower = low.long()
    upper = (lower + 1).clamp(max=length - 1)
    weights = start.new_zeros((len(start), bins, length))
    weights.scatter_add_(2, lower, share * (1 - fraction))
    return weights.scatter_add_(2, upper, share * fraction)
