"""What every flow network must do: sizes, batches, units, heads, initialisation."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench_methods.flow import FLOW_NETWORKS, FlowNetwork, build_flow_network, multi_scale_loss, warp

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


def test_padding_and_cropping_agree_on_whole_sizes() -> None:
    current, key = frames(1, 128, 256)
    flows = [built("flownet-s", odd_sizes=how)(current, key).flow for how in ("pad", "crop")]
    assert torch.equal(*flows)


def test_tiny_is_tiny() -> None:
    network = build_flow_network("tiny", feature_stride=4)
    assert sum(p.numel() for p in network.parameters()) < 50_000


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
    truth = torch.ones(1, 2, 64, 64)
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
