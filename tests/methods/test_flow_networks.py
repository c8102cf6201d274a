"""Flow networks: published shapes and numbers, sizes, batches, heads, and that the tiny one learns to see motion."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench_methods.flow import FLOW_NETWORKS, FlowNetwork, ScaledFlow, build_flow_network, multi_scale_loss, warp
from vodbench_methods.flow.flownet_c import FlowNetC
from vodbench_methods.flow.flownet_s import FlowNetS, published_name
from vodbench_methods.flow.losses import end_point_error

NAMES = sorted(FLOW_NETWORKS)


@cache
def weights(name: str) -> dict[str, Tensor]:
    """A fresh network of stride 16 whose heads all answer: as built, they leave every map where it is."""
    torch.manual_seed(0)
    network = build_flow_network(name, feature_stride=16, map_channels=5, with_update=True)
    for parameter in network.heads.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network.state_dict()


def built(name: str, *, feature_stride: int = 16, **settings: Any) -> FlowNetwork:
    """A network with those weights, which are not drawn again: the large ones have 40 million."""
    with torch.device("meta"):
        network = build_flow_network(
            name, feature_stride=feature_stride, map_channels=5, with_update=True, initialisation=None, **settings
        )
    network.load_state_dict(weights(name), assign=True)
    network.mean = torch.full((1, 3, 1, 1), 0.45)
    return network


def frames(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    current, key = torch.rand(2, count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return current, key


def parameters(network: FlowNetwork) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("heads.scale"))


@pytest.fixture(scope="module")
def published_weights(golden: Path) -> dict[str, Tensor]:
    """The golden checkpoint's flow network, by its formula."""
    published = json.loads((golden / "mega_dff.json").read_text())
    weights = {}
    for key, shape in published["shapes"].items():
        if not key.startswith("flownet."):
            continue
        if key.endswith("bias"):
            value = np.zeros(shape)
        else:
            rng = np.random.default_rng([published["seed"], zlib.crc32(key.encode())])
            value = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
        weights[key.removeprefix("flownet.")] = torch.from_numpy(value.astype(np.float32))
    return weights


def published_forward(w: dict[str, Tensor], pair: Tensor) -> tuple[Tensor, Tensor]:
    """FlowNetS of the published files, written out: uncut deconvolutions, cropped from (1, 1) to their skip."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride=stride, padding=kernel.shape[-1] // 2)

    def up(name: str, x: Tensor, like: Tensor) -> Tensor:
        full = F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2)
        return full[:, :, 1 : 1 + like.shape[2], 1 : 1 + like.shape[3]]

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    x = F.avg_pool2d(pair, 2, ceil_mode=True)
    c2 = act(conv("conv2", act(conv("flow_conv1", x, 2)), 2))
    c3 = act(conv("conv3_1", act(conv("conv3", c2, 2))))
    c4 = act(conv("conv4_1", act(conv("conv4", c3, 2))))
    c5 = act(conv("conv5_1", act(conv("conv5", c4, 2))))
    x = act(conv("conv6_1", act(conv("conv6", c5, 2))))
    for level, (skip, names) in enumerate(((c5, "6to5"), (c4, "5to4"), (c3, "4to3"), (c2, "3to2")), start=1):
        flow = up(f"upsample_flow{names}", conv(f"Convolution{level}", x), skip)
        x = torch.cat((skip, act(up(f"deconv{names[-1]}", x, skip)), flow), dim=1)
    x = F.avg_pool2d(x, 2, ceil_mode=True)
    return conv("Convolution5", x) * 2.5, conv("Convolution5_scale", x) + 1


def test_flownet_s_holds_exactly_the_published_weights(golden: Path) -> None:
    shapes = json.loads((golden / "mega_dff.json").read_text())["shapes"]
    published = {k: v for k, v in shapes.items() if k.startswith("flownet.")}
    with torch.device("meta"):
        network = FlowNetS(map_channels=1024, initialisation=None)
    ours = {f"flownet.{published_name(name)}": list(value.shape) for name, value in network.state_dict().items()}
    assert ours == published


@pytest.mark.parametrize("size", [(64, 128), (80, 112), (45, 97)])
def test_flownet_s_computes_the_published_numbers(published_weights: dict[str, Tensor], size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = FlowNetS(map_channels=1024, odd_sizes="crop", initialisation=None)
    ours = {name: published_weights[published_name(name)] for name in network.state_dict()}
    network.load_state_dict(ours, assign=True)
    current, key = frames(1, *size)
    network.mean = mean = torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    with torch.no_grad():
        flow, scale = published_forward(published_weights, torch.cat((current - mean, key - mean), dim=1))
        output = network(current, key)
    assert flow.abs().mean() > 0.1  # the comparison means something
    torch.testing.assert_close(output.flow, flow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.scale, scale, atol=1e-5, rtol=1e-4)


def test_padding_and_cropping_agree_on_whole_sizes() -> None:
    current, key = frames(1, 128, 256)
    flows = [built("flownet-s", odd_sizes=how)(current, key).flow for how in ("pad", "crop")]
    assert torch.equal(*flows)


@pytest.mark.parametrize(("network", "millions"), [(FlowNetS, 38.68), (FlowNetC, 39.18)])
def test_full_size(network: type[FlowNetwork], millions: float) -> None:
    with torch.device("meta"):
        assert parameters(network(feature_stride=16, initialisation=None)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_tiny_is_tiny() -> None:
    assert parameters(build_flow_network("tiny", feature_stride=4)) < 50_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (45, 83), (17, 130)])
@pytest.mark.parametrize("stride", [8, 16])
def test_maps_are_those_of_a_backbone(name: str, size: tuple[int, int], stride: int) -> None:
    height, width = size
    network = built(name, feature_stride=stride)
    with torch.no_grad():
        output = network(*frames(2, height, width))
    cells = (math.ceil(height / stride), math.ceil(width / stride))
    assert output.flow.shape == (2, 2, *cells)
    assert output.scale is not None
    assert output.scale.shape == (2, 5, *cells)
    assert output.update is not None
    assert output.update.shape == (2, 1, *cells)


@pytest.mark.parametrize("name", NAMES)
def test_batch_is_its_pairs_one_by_one(name: str) -> None:
    network = built(name)
    current, key = frames(3, 64, 96)
    with torch.no_grad():
        together = network(current, key).flow
        singly = torch.cat([network(c[None], k[None]).flow for c, k in zip(current, key, strict=True)])
    torch.testing.assert_close(together, singly, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_frame_for_many(name: str) -> None:
    network = built(name)
    current, key = frames(3, 64, 96)
    with torch.no_grad():
        for pair in ((current[:1], key), (current, key[:1])):
            expanded = network(*(images.expand(3, -1, -1, -1) for images in pair))
            output = network(*pair)
            torch.testing.assert_close(output.flow, expanded.flow, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(output.scale, expanded.scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_current_frame_comes_first(name: str) -> None:
    network = built(name)
    current, key = frames(1, 64, 96)
    with torch.no_grad():
        assert (network(current, key).flow - network(key, current).flow).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_pyramid_ends_in_the_output_in_pixels(name: str) -> None:
    network = built(name)
    current, key = frames(1, 72, 100)
    with torch.no_grad():
        pyramid = network.pyramid(current, key)
        torch.testing.assert_close(pyramid[-1].flow, network(current, key).flow * 16)
    for level in pyramid:
        assert level.flow.shape[2:] == (math.ceil(72 / level.stride), math.ceil(100 / level.stride))
    assert [level.stride for level in pyramid] == sorted((level.stride for level in pyramid), reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_flow_in_pixels_does_not_depend_on_the_stride(name: str) -> None:
    """One description of a pair, read at strides 8 and 16: the same motion in pixels."""
    described = torch.full((1, built(name).heads.flow.in_channels, 4, 4), 0.3)
    with torch.no_grad():
        fine, coarse = (stride * built(name, feature_stride=stride).heads(described).flow for stride in (8, 16))
    assert fine.abs().max() > 1e-3
    torch.testing.assert_close(fine, coarse)


@pytest.mark.parametrize(("name", "pixels"), [("flownet-s", 40), ("flownet-c", 40), ("tiny", 4)])
def test_unit_of_the_flow_head(name: str, pixels: int) -> None:
    """FlowNet predicts twentieths of the halved image's pixels, and 2.5 is what that is at stride 16."""
    with torch.device("meta"):
        network = build_flow_network(name, feature_stride=16, initialisation=None)
    assert network.heads.gain == pixels / 16


@pytest.mark.parametrize("name", NAMES)
def test_untrained_leaves_maps_where_they_are(name: str) -> None:
    network = build_flow_network(name, feature_stride=16, map_channels=6)
    key_map = torch.randn(1, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = network(*frames(1, 64, 96))
        assert output.scale is not None
        assert output.update is None
        assert torch.equal(warp(key_map, output.flow) * output.scale, key_map)


@pytest.mark.parametrize("name", NAMES)
def test_normal_initialisation(name: str) -> None:
    torch.manual_seed(0)
    network = build_flow_network(name, feature_stride=16, map_channels=6, with_update=True, initialisation="normal")
    weights = dict(network.named_parameters())
    assert weights.pop("heads.scale.weight").abs().max() == 0
    drawn = torch.cat([p.detach().flatten() for n, p in weights.items() if n.endswith("weight")])
    assert drawn.std() == pytest.approx(0.02, rel=0.02)
    assert all(p.abs().max() == 0 for n, p in weights.items() if n.endswith("bias"))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_trained(name: str) -> None:
    network = built(name)
    current, key = frames(1, 64, 64)
    truth = torch.ones(1, 2, 64, 96)
    output = network(current, key)
    assert output.scale is not None
    assert output.update is not None
    loss = multi_scale_loss(network.pyramid(current, key), truth)
    (loss + output.scale.square().sum() + output.update.square().sum()).backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


@pytest.mark.parametrize(("name", "stride"), [("flownet-s", 4), ("flownet-c", 12), ("tiny", 2)])
def test_other_strides_are_refused(name: str, stride: int) -> None:
    with pytest.raises(UserError, match=rf"stride .*, not {stride}; choose"):
        build_flow_network(name, feature_stride=stride)


def test_unknown_network_names_the_accepted() -> None:
    with pytest.raises(UserError, match=r"did you mean 'flownet-s'\? accepted: flownet-c, flownet-s, tiny"):
        build_flow_network("flownets", feature_stride=16)


def moving_textures(count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of 8 windows of 48 px that move over random textures by whole pixels, at most 8: current, key, truth."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        coarse = torch.rand(8, 3, 12, 12, generator=generator)
        texture = F.interpolate(coarse, size=(72, 72), mode="bilinear") + 0.3 * torch.rand(
            8, 3, 72, 72, generator=generator
        )
        shifts = torch.randint(-8, 9, (8, 2), generator=generator)
        # What is at p in the current window is at p + shift in the key window.
        key = torch.stack([t[:, 12 - y : 60 - y, 12 - x : 60 - x] for t, (x, y) in zip(texture, shifts, strict=True)])
        truth = shifts.float()[:, :, None, None].expand(-1, -1, 48, 48)
        yield texture[:, :, 12:60, 12:60], key, truth


def test_tiny_learns_motion() -> None:
    """The end-point error on unseen textures falls well below that of predicting no motion, in pixels."""
    torch.manual_seed(0)
    network = build_flow_network("tiny", feature_stride=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for current, key, truth in moving_textures(150, seed=1):
        optimizer.zero_grad()
        multi_scale_loss(network.pyramid(current, key), truth).backward()
        optimizer.step()
    trained, still = [], []
    with torch.no_grad():
        for current, key, truth in moving_textures(4, seed=2):
            predicted = network.pyramid(current, key)[-1]
            trained.append(end_point_error(predicted, truth))
            still.append(end_point_error(ScaledFlow(torch.zeros_like(predicted.flow), 4), truth))
    assert sum(trained) < 0.4 * sum(still)
