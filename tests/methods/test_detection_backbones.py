"""Backbones: stride 16 by dilation, folding, freezing, and published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d

from vodbench.errors import UserError
from vodbench_methods.detection.backbones import Backbone, build_backbone, load_torchvision_weights
from vodbench_methods.detection.batch_norm import FoldedCopy, fold_batch_norm
from vodbench_methods.detection.config import BACKBONES, TINY, FasterRCNNConfig

RESNETS = [name for name in BACKBONES if name != "tiny"]


def backbone(name: str, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(FasterRCNNConfig.from_mapping({"backbone": name, "frozen_batch_norm": False, **settings}))


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norm that is far from the identity."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                assert tensor is not None
                tensor.data = torch.randn(tensor.shape, generator=generator) * 0.3
            assert norm.running_var is not None
            norm.running_var.data = torch.rand(norm.running_var.shape, generator=generator) + 0.1
    return module


def strided_conv5(name: str, weights: dict[str, Tensor], stride_in_1x1: bool) -> nn.Module:
    """torchvision's own layer4, at stride 32 and without dilation, with the same weights."""
    layer: nn.Sequential = getattr(torchvision.models, name)(weights=None).layer4
    if stride_in_1x1:
        assert isinstance(layer[0], Bottleneck)
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    layer.load_state_dict({k.removeprefix("layer4."): v for k, v in weights.items() if k.startswith("layer4.")})
    return layer.eval()


@pytest.mark.parametrize(
    ("name", "stride_in_1x1"),
    [("resnet18", False), ("resnet50", False), ("resnet50", True), ("resnext101_64x4d", False)],
)
@torch.no_grad()
def test_dilation_sees_what_the_stride_saw(name: str, stride_in_1x1: bool) -> None:
    """Every second cell of conv5 at stride 16 is a cell of the published conv5 at stride 32 ("a trous")."""
    dilated = with_statistics(backbone(name, stride_in_1x1=stride_in_1x1)).eval()
    assert isinstance(dilated, Backbone)
    weights = dilated.state_dict()
    c4 = torch.randn(1, dilated.c4_channels, 7, 9)
    ours = dilated.stages()[4][0](c4)
    expected = strided_conv5(name, weights, stride_in_1x1)(c4)
    assert ours.shape[2:] == c4.shape[2:]
    torch.testing.assert_close(ours[:, :, ::2, ::2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RESNETS)
@torch.no_grad()
def test_stride_and_channels(name: str) -> None:
    network = backbone(name).eval()
    c4, c5 = network(torch.zeros(1, 3, 70, 49))
    assert c4.shape == (1, network.c4_channels, 5, 4)
    assert c5.shape == (1, network.c5_channels, 5, 4)
    assert network.c5_channels == (512 if name == "resnet18" else 2048)


@pytest.mark.parametrize(("name", "groups", "width"), [("resnext101_32x4d", 32, 128), ("resnext101_64x4d", 64, 256)])
def test_groups_of_resnext(name: str, groups: int, width: int) -> None:
    with torch.device("meta"):
        layer1, layer3 = backbone(name).stages()[1][0], backbone(name).stages()[3][0]
    assert isinstance(layer1, nn.Sequential)
    assert isinstance(layer3, nn.Sequential)
    assert (layer1[0].conv2.groups, layer1[0].conv2.out_channels, len(layer3)) == (groups, width, 23)


@pytest.mark.parametrize("stride", [4, 8, 16])
@torch.no_grad()
def test_tiny_strides(stride: int) -> None:
    network = backbone("tiny", tiny_stride=stride).eval()
    for features in network(torch.zeros(1, 3, 65, 64)):
        assert features.shape == (1, 24, -(-65 // stride), 64 // stride)


@pytest.mark.parametrize("frozen_batch_norm", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "tiny"])
@torch.no_grad()
def test_folded_batch_norm_gives_the_same_features(name: str, frozen_batch_norm: bool) -> None:
    network = with_statistics(backbone(name, frozen_batch_norm=frozen_batch_norm, batch_norm_eps=1e-3)).eval()
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d)) for m in folded.modules())
    image = torch.randn(1, 3, 48, 64)
    for ours, theirs in zip(folded(image), network(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_batch_norm_without_a_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="does not follow a convolution"):
        fold_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


def test_folded_copy_follows_every_change() -> None:
    network, folded = backbone("tiny"), FoldedCopy()
    first = folded.of(network)
    assert folded.of(network) is first
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    sum(f.mean() for f in network(torch.randn(2, 3, 32, 32))).backward()
    assert folded.of(network) is not first  # the running statistics moved
    second = folded.of(network)
    optimiser.step()
    assert folded.of(network) is not second
    third = folded.of(network)
    network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})
    assert folded.of(network) is not third


def test_frozen_stages_do_not_learn_and_keep_their_statistics() -> None:
    network = backbone("resnet18", frozen_stages=2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    c4, c5 = network(torch.randn(2, 3, 64, 64))
    (c4.sum() + c5.sum()).backward()
    frozen = ("conv1.", "bn1.", "layer1.")
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    moved = {n for n, v in network.state_dict().items() if "running" in n and not torch.equal(v, before[n])}
    assert moved == {n for n in before if "running" in n and not n.startswith(frozen)}


# ---- weights


def test_torchvision_weights_are_taken_over(tmp_path: Path) -> None:
    published = torchvision.models.resnet18(weights=None)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    network = backbone("resnet18", frozen_batch_norm=True)
    load_torchvision_weights(network, str(tmp_path / "resnet18.pth"))
    expected = published.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_weights_of_another_network_list_the_difference(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError) as raised:
        load_torchvision_weights(backbone("tiny"), str(tmp_path / "resnet18.pth"))
    assert "missing conv1.0.weight" in str(raised.value)
    assert "unexpected bn1.bias" in str(raised.value)


@pytest.mark.parametrize("content", [None, b"text", "list"])
def test_file_without_weights_is_refused(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "list":
        torch.save([1, 2], path)
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_torchvision_weights(backbone("tiny"), str(path))


# ---- configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
        ({"box_weights": (10.0, 10.0)}, "give 4"),
        ({"anchor_sizes": ()}, "at least one positive"),
        ({"drops": (0.9, 0.5)}, "rising shares"),
        ({"rpn_background_iou": 0.8}, "rpn_background_iou"),
        ({"anchor_origin": "corner", "rounded_anchors": True}, "anchor_origin"),
        ({"short_side": 600, "max_side": 500}, "max_side"),
        ({"backbone": "resnet34"}, "resnet50"),
        ({"proposals": 0}, "proposals"),
        ({"roi_batch": 1.5}, "roi_batch"),
    ],
)
def test_bad_settings_name_what_is_accepted(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FasterRCNNConfig.from_mapping({**TINY, **settings})
