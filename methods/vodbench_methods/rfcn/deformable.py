"""Deformable convolution and pooling (Dai et al., ICCV 2017, Eq. 2 and 6): samples move by offsets that are learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from vodbench_methods.rfcn.position_sensitive import rounded_extents


def deformable_convolution(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, *, padding: int, dilation: int
) -> Tensor:
    """Convolution of stride 1 whose taps are moved by ``offsets`` and read x bilinearly.

    Args:
        x: (N, C, H, W).
        offsets: (N, G * K * K * 2, H', W') cells; channel ((g * K * K + tap) * 2 + d) moves a tap of the g-th of G
            equal parts of the channels, down (d = 0) or right (d = 1).
        weight: (C', C, K, K).

    A tap outside [0, H) x [0, W) reads zero; one beyond the last cell's centre reads that cell. So it is in the
    authors' code; torchvision fades both over one cell, which differs only along the border.
    """
    taps = weight.shape[2]
    count, _, height, width = offsets.shape
    moves = offsets.reshape(count, -1, taps, taps, 2, height, width)
    down, inside_rows = _within(moves[:, :, :, :, 0], x.shape[2], padding, dilation, tap_axis=2, axis=4)
    right, inside_columns = _within(moves[:, :, :, :, 1], x.shape[3], padding, dilation, tap_axis=3, axis=5)
    convolved: Tensor = torchvision.ops.deform_conv2d(
        x,
        torch.stack((down, right), dim=4).reshape(offsets.shape),
        weight,
        bias,
        padding=padding,
        dilation=dilation,
        mask=(inside_rows & inside_columns).to(x.dtype).reshape(count, -1, height, width),
    )
    return convolved


def _within(
    moves: Tensor, length: int, padding: int, dilation: int, *, tap_axis: int, axis: int
) -> tuple[Tensor, Tensor]:
    """Offsets along one axis that stop at the outer cells' centres, and which taps lie within the map.

    moves: (N, G, K, K, H', W'); ``axis`` is the axis of the cells that taps are counted from.
    """
    cell = torch.arange(moves.shape[axis], device=moves.device, dtype=moves.dtype) - padding
    tap = torch.arange(moves.shape[tap_axis], device=moves.device, dtype=moves.dtype) * dilation
    at_rest = _along(cell, axis) + _along(tap, tap_axis)
    position = at_rest + moves
    return position.clamp(0, length - 1) - at_rest, (position >= 0) & (position < length)


def _along(values: Tensor, axis: int) -> Tensor:
    """A vector as a tensor of six dimensions."""
    return values.view([-1 if i == axis else 1 for i in range(6)])


class DeformableConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that predicts its own offsets; it starts as the plain convolution.

    Parameter names are the plain convolution's, with ``offsets.*`` besides.
    """

    def __init__(self, plain: nn.Conv2d, groups: int) -> None:
        padding, dilation = int(plain.padding[0]), plain.dilation[0]
        channels = plain.in_channels
        if channels % groups:
            raise ValueError(f"{groups} groups do not divide the {channels} channels of the convolution")
        super().__init__(
            channels, plain.out_channels, 3, padding=padding, dilation=dilation, bias=plain.bias is not None
        )
        self.load_state_dict(plain.state_dict())
        self.offsets = nn.Conv2d(channels, groups * 3 * 3 * 2, 3, padding=padding, dilation=dilation)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return deformable_convolution(
            x, self.offsets(x), self.weight, self.bias, padding=int(self.padding[0]), dilation=self.dilation[0]
        )


def make_deformable(module: nn.Module, groups: int) -> None:
    """Replace every 3x3 convolution inside ``module`` by a deformable one with the same weights.

    ``ValueError`` where ``groups`` does not divide the channels of one.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            setattr(module, name, DeformableConv2d(child, groups))
        else:
            make_deformable(child, groups)


def deformable_ps_roi_pool(
    maps: Tensor,
    boxes: Sequence[Tensor],
    size: int,
    stride: int,
    *,
    offsets: Tensor | None,
    offset_scale: float,
    sampling: int,
) -> Tensor:
    """Position-sensitive pooling whose bins move; maps, boxes and result as in ``position_sensitive``.

    Args:
        offsets: (sum n, 2 * G, k, k): how far each bin moves right (channel 2 * g) and down (2 * g + 1) for the g-th of
            G equal parts of the C outputs, in RoI widths and heights after ``offset_scale``; None: not at all.
        offset_scale: gamma of the paper, 0.1.
        sampling: samples a bin and direction, from the bin's own corner on.

    RoIs are rounded as in ``ps_roi_pool``. Samples more than half a cell outside the map's outer centres do not count;
    a bin without samples is zero.
    """
    counts = [len(own) for own in boxes]
    starts, extents = rounded_extents(torch.cat(list(boxes)).to(maps.dtype), stride)
    moves = maps.new_zeros((sum(counts), 2, size, size)) if offsets is None else offsets * offset_scale
    moves = moves.view(len(moves), moves.shape[1] // 2, 2, size, size)
    bins = torch.arange(size, device=maps.device, dtype=maps.dtype)
    x = _samples(starts[:, 0], extents[:, 0], bins, moves[:, :, 0], sampling)  # (sum n, G, k, k, s)
    y = _samples(starts[:, 1], extents[:, 1], bins[:, None], moves[:, :, 1], sampling)
    images = zip(maps, torch.split(x, counts), torch.split(y, counts), strict=True)
    return torch.cat([_mean_of_samples(image, own_x, own_y) for image, own_x, own_y in images])


def _samples(start: Tensor, extent: Tensor, bins: Tensor, moves: Tensor, sampling: int) -> Tensor:
    """(n, G, k, k, s) coordinates in cells of the samples of every bin along one axis.

    start, extent: (n,) in cells; bins: a bin's place along the axis; moves: (n, G, k, k) in extents.
    """
    start, extent = start.view(-1, 1, 1, 1), extent.view(-1, 1, 1, 1)
    size = moves.shape[-1]
    corner = start - 0.5 + bins * (extent / size) + moves * extent
    sample = torch.arange(sampling, device=moves.device, dtype=moves.dtype)
    return corner[..., None] + sample * (extent / (size * sampling))[..., None]


def _mean_of_samples(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(n, C, k, k) means of one image's maps (C * k * k, H, W) at x and y (n, G, k, k, s)."""
    count, parts, size, _, sampling = x.shape
    channels, height, width = image.shape
    outputs = channels // (parts * size * size)  # of a part
    inside_x = (x >= -0.5) & (x <= width - 0.5)
    inside_y = (y >= -0.5) & (y <= height - 0.5)
    used = (inside_y[..., :, None] & inside_x[..., None, :]).to(image.dtype)  # (n, G, k, k, s, s)
    across = _unit(x, width)[..., None, :].expand_as(used)
    grid = torch.stack((across, _unit(y, height)[..., :, None].expand_as(used)), dim=-1)
    # One picture a part and bin: (G * k * k, C / G, H, W), looked at in n x s^2 places.
    pictures = image.reshape(parts, outputs, size * size, height, width).transpose(1, 2).flatten(0, 1)
    places = grid.permute(1, 2, 3, 0, 4, 5, 6).reshape(len(pictures), count, sampling**2, 2)
    values = F.grid_sample(pictures, places, padding_mode="border", align_corners=True)  # (G k k, C / G, n, s^2)
    values = values.view(parts, size, size, outputs, count, sampling**2)
    used = used.permute(1, 2, 3, 0, 4, 5).reshape(parts, size, size, 1, count, sampling**2)
    means = (values * used).sum(dim=-1) / used.sum(dim=-1).clamp(min=1)  # (G, k, k, C / G, n)
    return means.permute(4, 0, 3, 1, 2).flatten(1, 2)


def _unit(position: Tensor, length: int) -> Tensor:
    """Cells as ``grid_sample`` counts them: -1 and 1 are the outer centres."""
    return position * (2.0 / max(length - 1, 1)) - 1.0
