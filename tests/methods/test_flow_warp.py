"""The warp against MXNet's numbers, a plain loop, and its own laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench_methods.flow import warping
from vodbench_methods.flow.warping import CONVENTIONS, warp

Sample = Callable[[Tensor, Tensor, Tensor], Tensor]
PATHS = {"rows": warping._by_rows, "grid": warping._by_grid}  # a CPU's, and that of accelerators


@pytest.fixture(params=sorted(PATHS))
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of sampling, whatever the machine of the test."""
    monkeypatch.setattr(warping, "_by_rows", PATHS[request.param])
    return str(request.param)


def random_pair(count: int, channels: int, height: int, width: int, reach: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width + count)
    flow = (torch.rand(count, 2, height, width, generator=generator) * 2 - 1) * reach
    return torch.randn(count, channels, height, width, generator=generator), flow


def loop_warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Eq. 1-3 of DFF: the bilinear kernel over every cell of the map."""
    count, _, height, width = maps.shape
    out = torch.zeros_like(maps)
    for n in range(count):
        for y in range(height):
            for x in range(width):
                look_x, look_y = x + float(flow[n, 0, y, x]), y + float(flow[n, 1, y, x])
                for qy in range(height):
                    for qx in range(width):
                        weight = max(0.0, 1 - abs(qx - look_x)) * max(0.0, 1 - abs(qy - look_y))
                        out[n, :, y, x] += weight * maps[n, :, qy, qx]
    return out


def test_bilinear_sampler_numbers(golden: Path, path: str) -> None:
    numbers = {name: torch.from_numpy(a) for name, a in np.load(golden / "warp.npz").items()}
    torch.testing.assert_close(warp(numbers["x"], numbers["flow"]), numbers["y"], atol=2e-6, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 6), (3, 1), (1, 1)])
def test_equals_the_loop(height: int, width: int, path: str) -> None:
    maps, flow = random_pair(2, 3, height, width)
    torch.testing.assert_close(warp(maps, flow), loop_warp(maps, flow), atol=3e-6, rtol=0)


def test_zero_flow_returns_the_very_map() -> None:
    maps, flow = random_pair(2, 4, 7, 9)
    assert torch.equal(warp(maps, torch.zeros_like(flow)), maps)


def test_whole_cells_are_moved_exactly() -> None:
    maps, flow = random_pair(1, 4, 7, 9)
    flow[:, 0], flow[:, 1] = 2.0, -3.0
    expected = torch.zeros_like(maps)
    expected[:, :, 3:, :-2] = maps[:, :, :-3, 2:]
    assert torch.equal(warp(maps, flow), expected)


def test_half_outside_counts_half(path: str) -> None:
    ones = torch.ones(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 0.25
    torch.testing.assert_close(warp(ones, flow)[0, 0, 0], torch.tensor([1.0, 1.0, 1.0, 0.75]), atol=1e-6, rtol=0)


def test_flow_far_outside_gives_zero(path: str) -> None:
    maps, flow = random_pair(1, 2, 4, 5)
    assert warp(maps, torch.full_like(flow, 1e12)).abs().max() == 0


def test_a_diverged_flow_shows_as_nan() -> None:
    maps, flow = random_pair(1, 2, 4, 5)
    flow[0, 0, 1, 2] = math.nan
    lost = torch.isnan(warp(maps, flow))
    assert lost[0, :, 1, 2].all()
    assert lost.sum() == 2


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_one_key_for_many_flows(convention: str, path: str) -> None:
    maps, flow = random_pair(3, 4, 5, 6)
    together = warp(maps[:1], flow, convention)  # type: ignore[arg-type]
    for single, own in zip(together, flow, strict=True):
        torch.testing.assert_close(single, warp(maps[:1], own[None], convention)[0])  # type: ignore[arg-type]


def test_batch_is_its_images_one_by_one() -> None:
    maps, flow = random_pair(3, 4, 5, 6)
    singly = torch.cat([warp(m[None], f[None]) for m, f in zip(maps, flow, strict=True)])
    torch.testing.assert_close(warp(maps, flow), singly, atol=1e-6, rtol=0)


def test_memory_layout_changes_nothing() -> None:
    maps, flow = random_pair(2, 4, 5, 6)
    assert torch.equal(warp(maps.contiguous(memory_format=torch.channels_last), flow), warp(maps, flow))


def test_half_precision_maps_are_sampled_in_single(path: str) -> None:
    """Positions in bf16 would be whole cells off at the right of a wide map."""
    maps, flow = random_pair(1, 2, 3, 300, reach=0.4)
    warped = warp(maps.bfloat16(), flow)
    assert warped.dtype is torch.bfloat16
    expected = warp(maps.bfloat16().float(), flow)
    torch.testing.assert_close(warped.float(), expected, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("num_maps", [1, 2])
def test_gradients(convention: str, num_maps: int, path: str) -> None:
    maps, flow = random_pair(2, 2, 3, 4, reach=1.3)
    inputs = (maps[:num_maps].double().requires_grad_(), flow.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda m, f: warp(m, f, convention), inputs)  # type: ignore[arg-type]


def mega_resample(maps: Tensor, flow: Tensor) -> Tensor:
    """mega.pytorch's formula: positions over (size - 1) / 2, read by cells' outer edges, clamped to the border."""
    size = torch.tensor([maps.shape[3], maps.shape[2]])
    grid = 2 * cells_plus(flow) / (size - 1) - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def mmtracking_resample(maps: Tensor, flow: Tensor) -> Tensor:
    """mmtracking's formula: positions over size / 2, read by cells' centres, clamped to the border."""
    size = torch.tensor([maps.shape[3], maps.shape[2]])
    grid = 2 * cells_plus(flow) / size - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)


def cells_plus(flow: Tensor) -> Tensor:
    y, x = torch.meshgrid(torch.arange(flow.shape[2]), torch.arange(flow.shape[3]), indexing="ij")
    return flow.permute(0, 2, 3, 1) + torch.stack((x, y), dim=-1)


@pytest.mark.parametrize(("name", "formula"), [("mega", mega_resample), ("mmtracking", mmtracking_resample)])
def test_conventions_of_published_weights(name: str, formula: Callable[[Tensor, Tensor], Tensor], path: str) -> None:
    maps, flow = random_pair(2, 3, 6, 8)
    torch.testing.assert_close(warp(maps, flow, name), formula(maps, flow), atol=3e-6, rtol=0)  # type: ignore[arg-type]


def test_zero_flow_is_not_the_identity_there(path: str) -> None:
    """On a ramp, the value read is the position read."""
    width = 9
    ramp = torch.arange(width, dtype=torch.float32).expand(1, 1, width, width)
    still = torch.zeros(1, 2, width, width)
    position = torch.arange(width, dtype=torch.float32)
    mega = warp(ramp, still, "mega")[0, 0, 4] - position
    assert mega[0] == pytest.approx(0.0, abs=1e-5)  # half a cell to the left, held by the border
    assert mega[1] == pytest.approx(1 / 8 - 0.5, abs=1e-5)
    assert mega[4] == pytest.approx(0.0, abs=1e-5)
    assert mega[7] == pytest.approx(0.5 - 1 / 8, abs=1e-5)
    mmtracking = warp(ramp, still, "mmtracking")[0, 0, 4] - position
    torch.testing.assert_close(mmtracking, -position / width, atol=1e-5, rtol=0)


def test_unknown_convention_names_the_accepted() -> None:
    maps, flow = random_pair(1, 1, 2, 2)
    with pytest.raises(UserError, match=r"did you mean 'mega'.*exact, mega, mmtracking"):
        warp(maps, flow, "megaa")  # type: ignore[arg-type]
