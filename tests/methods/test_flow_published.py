"""FlowNet's weights and numbers as they were published."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.flow.flownet_c import FlowNetC
from vodbench_methods.flow.flownet_s import FlowNetS, published_name
from vodbench_methods.flow.network import FlowNetwork


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
    current, key = torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(0))
    network.mean = mean = torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    with torch.no_grad():
        flow, scale = published_forward(published_weights, torch.cat((current - mean, key - mean), dim=1))
        output = network(current, key)
    assert flow.abs().mean() > 0.1  # the comparison means something
    torch.testing.assert_close(output.flow, flow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.scale, scale, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("network", "millions"), [(FlowNetS, 38.68), (FlowNetC, 39.18)])
def test_full_size(network: type[FlowNetwork], millions: float) -> None:
    with torch.device("meta"):
        assert parameters(network(feature_stride=16, initialisation=None)) / 1e6 == pytest.approx(millions, abs=0.005)
