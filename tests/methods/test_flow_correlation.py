"""The correlation layer against MXNet's numbers, a plain loop, and its own laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench_methods.flow.correlation import correlation, displacements


def random_maps(count: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height + width)
    a, b = torch.randn(2, count, channels, height, width, generator=generator, dtype=torch.float64)
    return a, b


def loop_correlation(current: Tensor, key: Tensor, displacement: int, stride: int) -> Tensor:
    count, _, height, width = current.shape
    steps = range(-displacement, displacement + 1, stride)
    out = current.new_zeros((count, len(steps) ** 2, height, width))
    for channel, (dy, dx) in enumerate((dy, dx) for dy in steps for dx in steps):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    out[:, channel, y, x] = (current[:, :, y, x] * key[:, :, y + dy, x + dx]).mean(dim=1)
    return out


def test_mxnet_numbers(golden: Path) -> None:
    numbers = {name: torch.from_numpy(a) for name, a in np.load(golden / "corr.npz").items()}
    ours = correlation(numbers["a"], numbers["b"], displacement=4, stride=2)
    torch.testing.assert_close(ours, numbers["y"], atol=5e-7, rtol=0)


@pytest.mark.parametrize(("displacement", "stride"), [(0, 1), (1, 1), (2, 1), (2, 2), (6, 3), (6, 2)])
@pytest.mark.parametrize("size", [(4, 5), (1, 3), (5, 1)])
def test_equals_the_loop(displacement: int, stride: int, size: tuple[int, int]) -> None:
    a, b = random_maps(2, 3, *size)
    ours = correlation(a, b, displacement=displacement, stride=stride)
    torch.testing.assert_close(ours, loop_correlation(a, b, displacement, stride), atol=1e-12, rtol=0)


def test_flownet_c_has_441_maps() -> None:
    a, b = random_maps(1, 2, 3, 4)
    assert correlation(a, b, displacement=20, stride=2).shape == (1, 441, 3, 4)


def test_best_channel_is_the_shift() -> None:
    generator = torch.Generator().manual_seed(1)
    key = torch.randn(1, 64, 12, 12, generator=generator)
    current = torch.roll(key, shifts=(-1, 2), dims=(2, 3))  # current(x, y) = key(x - 2, y + 1)
    best = correlation(current, key, displacement=3)[0, :, 4:8, 4:8].argmax(dim=0)
    assert (displacements(3)[best] == torch.tensor([-2.0, 1.0])).all()


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (3, 3)])
def test_one_map_for_many(counts: tuple[int, int]) -> None:
    a, b = (maps[:count] for maps, count in zip(random_maps(3, 4, 5, 6), counts, strict=True))
    together = correlation(a, b, displacement=2)
    for i, single in enumerate(together):
        pair = (maps[min(i, len(maps) - 1)][None] for maps in (a, b))
        torch.testing.assert_close(single, correlation(*pair, displacement=2)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients(stride: int) -> None:
    a, b = random_maps(2, 2, 3, 4)
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: correlation(x, y, displacement=2, stride=stride), inputs)


def test_channels_last_changes_nothing() -> None:
    a, b = random_maps(2, 4, 5, 6)
    turned = [m.contiguous(memory_format=torch.channels_last) for m in (a, b)]
    torch.testing.assert_close(
        correlation(*turned, displacement=2), correlation(a, b, displacement=2), atol=1e-12, rtol=0
    )


def test_a_displacement_off_the_stride_is_our_mistake() -> None:
    a, b = random_maps(1, 2, 3, 4)
    with pytest.raises(AssertionError, match="no multiple"):
        correlation(a, b, displacement=3, stride=2)
