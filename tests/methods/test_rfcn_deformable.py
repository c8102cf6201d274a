"""Deformable convolution against golden numbers, torchvision inside the map, and shifted maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from vodbench_methods.detection.batch_norm import fold_batch_norm
from vodbench_methods.rfcn.deformable import DeformableConv2d, deformable_convolution, make_deformable


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_equals_the_published_operator(golden: Path) -> None:
    """Dilation 2, 4 groups, offsets of some 2 cells on a map of 8 x 9: much of it lies at the border."""
    z = {name: torch.from_numpy(array) for name, array in np.load(golden / "deformable_convolution.npz").items()}
    y = deformable_convolution(z["x"], z["offsets"], z["weight"], None, padding=2, dilation=2)
    torch.testing.assert_close(y, z["y"], atol=2e-5, rtol=1e-5)


def test_equals_torchvision_where_all_taps_are_inside() -> None:
    """Offsets below a cell: a margin of 2 + 1 cells holds them."""
    x, weight, bias = random(2, 8, 12, 13), random(6, 8, 3, 3, seed=1), random(6, seed=2)
    offsets = random(2, 2 * 18, 12, 13, seed=3).clamp(-0.99, 0.99)
    ours = deformable_convolution(x, offsets, weight, bias, padding=2, dilation=2)
    theirs = torchvision.ops.deform_conv2d(x, offsets, weight, bias, padding=2, dilation=2)
    torch.testing.assert_close(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], atol=1e-4, rtol=1e-5)
    assert (ours - theirs).abs().max() > 0.1, "and the border is where they differ"


@pytest.mark.parametrize(("padding", "dilation"), [(1, 1), (2, 2), (0, 1)])
def test_without_offsets_it_is_a_convolution(padding: int, dilation: int) -> None:
    x, weight, bias = random(2, 4, 9, 7), random(5, 4, 3, 3, seed=1), random(5, seed=2)
    plain = F.conv2d(x, weight, bias, padding=padding, dilation=dilation)
    offsets = torch.zeros(2, 2 * 18, *plain.shape[2:])
    ours = deformable_convolution(x, offsets, weight, bias, padding=padding, dilation=dilation)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_whole_offsets_shift_a_group_of_channels() -> None:
    """The first of two groups looks 1 cell down and 2 to the left; zeros come in from outside."""
    x, weight = random(1, 4, 9, 8), random(3, 4, 3, 3, seed=1)
    offsets = torch.zeros(1, 2, 9, 2, 9, 8)
    offsets[:, 0, :, 0], offsets[:, 0, :, 1] = 1.0, -2.0
    ours = deformable_convolution(x, offsets.flatten(1, 3), weight, None, padding=1, dilation=1)
    shifted = F.pad(x[:, :2], (2, 0, 0, 1))[..., 1:, :8]  # at (y, x): what stood at (y + 1, x - 2)
    expected = F.conv2d(torch.cat((shifted, x[:, 2:]), dim=1), weight, padding=1)
    inner = (..., slice(1, -1), slice(1, -1))  # the plain convolution pads before the shift
    torch.testing.assert_close(ours[inner], expected[inner], atol=1e-5, rtol=1e-5)


def test_gradients() -> None:
    x = random(1, 4, 3, 4, dtype=torch.float64).requires_grad_()
    offsets = random(1, 2 * 18, 3, 4, seed=1, dtype=torch.float64).requires_grad_()
    weight = random(2, 4, 3, 3, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *a: deformable_convolution(*a, None, padding=2, dilation=2), (x, offsets, weight)
    )


def block() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*layers)


def test_a_network_made_deformable_starts_as_it_was() -> None:
    plain, deformable = block().eval(), block().eval()
    make_deformable(deformable, groups=4)
    assert isinstance(deformable[1], DeformableConv2d)
    assert deformable[1].offsets.out_channels == 72
    added = set(deformable.state_dict()) - set(plain.state_dict())
    assert added == {"1.offsets.weight", "1.offsets.bias"}
    assert not set(plain.state_dict()) - set(deformable.state_dict())
    x = random(2, 8, 7, 9)
    torch.testing.assert_close(deformable(x), plain(x), atol=1e-5, rtol=1e-5)


def test_batch_norm_folds_into_it() -> None:
    network = block()
    make_deformable(network, groups=2)
    norm = network[2]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    network.eval()
    x = random(2, 8, 7, 9)
    torch.testing.assert_close(fold_batch_norm(network)(x), network(x), atol=1e-5, rtol=1e-4)


def test_the_offsets_learn() -> None:
    layer = DeformableConv2d(nn.Conv2d(8, 8, 3, padding=1), groups=2)
    layer(random(1, 8, 6, 6)).square().sum().backward()
    assert layer.offsets.weight.grad is not None
    assert layer.offsets.weight.grad.abs().max() > 0
