"""mega.pytorch's DFF and FGFA files: each key in its place, and FGFA's aggregation from the published names.

DFF is held to golden detections in ``test_mega_importer``. None are at hand for FGFA: here its aggregated map is
computed literally from the file, with mega.pytorch's flow network, warp and window in their order of operations.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.fgfa.model import FGFA
from vodbench_methods.importers.mega import import_mega
from vodbench_methods.sequence import window

FIRST = "flownet.flow_conv1.weight"
EMBEDDING = {1: (512, 1024, 1, 1), 2: (512, 512, 3, 3), 3: (2048, 512, 1, 1)}


@pytest.fixture(scope="module")
def dff_shapes(golden: Path) -> dict[str, tuple[int, ...]]:
    recipe = json.loads((golden / "mega_dff.json").read_text())
    return {name: tuple(shape) for name, shape in recipe["shapes"].items() if "cell_anchors" not in name}


@pytest.fixture(scope="module")
def fgfa_shapes(dff_shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    shapes = {name: shape for name, shape in dff_shapes.items() if "Convolution5_scale" not in name}
    for number, shape in EMBEDDING.items():
        shapes[f"embednet.embed_conv{number}.weight"] = shape
        shapes[f"embednet.embed_conv{number}.bias"] = shape[:1]
    return shapes


def constants(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A different number in each weight, stored once: the published widths in a file of some kilobytes."""
    model = {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}
    return {**model, FIRST: torch.arange(6.0).view(1, 6, 1, 1).expand(shapes[FIRST])}


def saved(model: Any, folder: Path) -> str:
    torch.save({"model": {f"module.{name}": value for name, value in model.items()}}, folder / "flow.pth")
    return str(folder / "flow.pth")


def our_name(published: str) -> str:
    """Written apart from the importer, the other way round."""
    layer, _, kind = published.rpartition(".")
    place = {
        "flow_conv1": "conv1",
        "Convolution1": "predict_flow6",
        "Convolution2": "predict_flow5",
        "Convolution3": "predict_flow4",
        "Convolution4": "predict_flow3",
        "Convolution5": "heads.flow",
        "Convolution5_scale": "heads.scale",
    }
    part, _, name = layer.partition(".")
    if part == "flownet":
        return f"flow.{place.get(name, name)}.{kind}"
    if part == "embednet":
        return f"embedding.{name.removeprefix('embed_')}.{kind}"
    for theirs, ours in (
        ("backbone.body.stem.", "backbone."),
        ("backbone.body.", "backbone."),
        ("roi_heads.box.feature_extractor.head.layer4.", "backbone.layer4."),
        ("roi_heads.box.feature_extractor.conv.", "reduction."),
        ("roi_heads.box.feature_extractor.fc6.", "head.fcs.0."),
        ("roi_heads.box.feature_extractor.fc7.", "head.fcs.1."),
        ("roi_heads.box.", ""),
        ("rpn.head.", "rpn."),
    ):
        if published.startswith(theirs):
            return f"detector.{published.replace(theirs, ours, 1)}"
    raise AssertionError(published)


@pytest.mark.parametrize("method", ["dff", "fgfa"])
def test_all_keys_have_their_places(method: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    shapes = request.getfixturevalue(f"{method}_shapes")
    model = constants(shapes)
    imported = import_mega(saved(model, tmp_path))
    assert (imported.method, imported.num_classes) == (method, 30)
    assert {our_name(name) for name in model} == set(imported.weights)
    for name, value in model.items():
        weight = imported.weights[our_name(name)]
        assert weight.numel() == value.numel(), name
        if name == FIRST:  # two BGR images there, two RGB images here
            assert weight[0, :, 0, 0].tolist() == [2, 1, 0, 5, 4, 3]
        else:
            assert (weight == value.flatten()[0]).all(), name


def test_conventions_are_settings(tmp_path: Path, dff_shapes: Any, fgfa_shapes: Any) -> None:
    dff: Any = import_mega(saved(constants(dff_shapes), tmp_path)).config
    fgfa: Any = import_mega(saved(constants(fgfa_shapes), tmp_path), {"T": 4}).config
    for config in (dff, fgfa):
        assert (config.detector, config.flow_network, config.warp) == ("faster-rcnn", "flownet-s", "mega")
        assert (config.flow_odd_sizes, config.roi_sampling, config.nms_threshold) == ("crop", 0, 0.5)
        assert config.flow_mean == pytest.approx(np.array([122.7717, 115.9465, 102.9801]) / 255)
    assert (dff.flow_scale, dff.warped_key_frames, dff.key_frame_interval) == (True, True, 10)
    assert (fgfa.flow_scale, fgfa.T, fgfa.video_ends) == (False, 4, "replicate")
    assert (fgfa.embeddings, fgfa.self_flow) == ("cached", True)
    assert (fgfa.embedding_channels, fgfa.embedding_outputs) == (512, 2048)


@pytest.mark.parametrize(
    ("method", "layout", "lost", "other"),
    [
        ("dff", "DFF (base, flownet)", "flownet.deconv4.bias", "flownet.Convolution6.bias"),
        ("dff", "DFF (base, flownet)", "flownet.Convolution5_scale.weight", "flownet.scale.weight"),
        ("fgfa", "FGFA (base, flownet, embednet)", "embednet.embed_conv3.bias", "embednet.embed_conv4.bias"),
        ("fgfa", "FGFA (base, flownet, embednet)", "embednet.embed_conv1.weight", "embednet.embed_conv1.scale"),
        ("fgfa", "FGFA (base, flownet, embednet)", "flownet.conv6_1.weight", "flownet.Convolution5_scale.weight"),
    ],
)
def test_mismatch_lists_missing_and_unexpected(
    method: str, layout: str, lost: str, other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = constants(request.getfixturevalue(f"{method}_shapes"))
    del model[lost]
    model[other] = torch.zeros(1)
    with pytest.raises(UserError) as raised:
        import_mega(saved(model, tmp_path))
    message = str(raised.value)
    assert f"mega.pytorch's layout '{layout}'" in message
    assert f"missing {lost};" in message
    assert f"unexpected {other};" in message


# ---- FGFA, literally


def value_by_formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden checkpoints' formula, with biases that are not zero."""
    rng = np.random.default_rng([5, zlib.crc32(name.encode())])
    if name.endswith(("running_mean", "running_var")) or ".bn" in name or "downsample.1" in name:
        return torch.full(shape, 1.0 if name.endswith("running_var") else 0.5)
    gain = 0.1 if name.endswith("bias") else math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy((gain * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32))


class Literal:
    """``GeneralizedRCNNFGFA`` at test, from normalised BGR images and their backbone maps."""

    def __init__(self, model: dict[str, Tensor]) -> None:
        self.model = model

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.model[f"{name}.weight"]
        return F.conv2d(x, weight, self.model.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def up(self, name: str, x: Tensor, like: Tensor) -> Tensor:
        """A deconvolution without padding, cut from its second row and column on."""
        x = F.conv_transpose2d(x, self.model[f"flownet.{name}.weight"], self.model[f"flownet.{name}.bias"], stride=2)
        return x[:, :, 1 : like.shape[2] + 1, 1 : like.shape[3] + 1]

    def flow(self, pair: Tensor) -> Tensor:
        def layer(name: str, x: Tensor, stride: int = 1) -> Tensor:
            return F.leaky_relu(self.conv(f"flownet.{name}", x, stride), 0.1)

        x = layer("flow_conv1", F.avg_pool2d(pair, 2, 2, ceil_mode=True), 2)
        conv2 = layer("conv2", x, 2)
        conv3 = layer("conv3_1", layer("conv3", conv2, 2))
        conv4 = layer("conv4_1", layer("conv4", conv3, 2))
        conv5 = layer("conv5_1", layer("conv5", conv4, 2))
        x = layer("conv6_1", layer("conv6", conv5, 2))
        for number, skip in ((5, conv5), (4, conv4), (3, conv3), (2, conv2)):
            flow = self.up(
                f"upsample_flow{number + 1}to{number}", self.conv(f"flownet.Convolution{6 - number}", x), skip
            )
            x = torch.cat((skip, F.leaky_relu(self.up(f"deconv{number}", x, skip), 0.1), flow), dim=1)
        return self.conv("flownet.Convolution5", F.avg_pool2d(x, 2, 2, ceil_mode=True)) * 2.5

    def embed(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv("embednet.embed_conv1", x))
        return self.conv("embednet.embed_conv3", F.relu(self.conv("embednet.embed_conv2", x)))

    def resample(self, maps: Tensor, flow: Tensor) -> Tensor:
        height, width = flow.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        half = torch.tensor([(width - 1) / 2, (height - 1) / 2]).view(1, 2, 1, 1)
        grid = ((flow + torch.stack((x, y))) / half - 1).permute(0, 2, 3, 1)
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)

    def aggregated(self, images: Tensor, maps: Tensor, reference: int) -> Tensor:
        """``images`` and ``maps`` of the whole window, the first and last frames of the video really repeated."""
        pairs = torch.cat((images[reference : reference + 1].expand_as(images) / 255, images / 255), dim=1)
        warped, embeddings = self.resample(torch.cat((maps, self.embed(maps)), dim=1), self.flow(pairs)).split(
            (1024, 2048), dim=1
        )
        unit = embeddings / (embeddings.norm(dim=1, keepdim=True) + 1e-10)
        weights = (unit * unit[reference : reference + 1]).sum(dim=1, keepdim=True).softmax(dim=0)
        return (weights * warped).sum(dim=0, keepdim=True)


@pytest.mark.slow
@torch.no_grad()
def test_the_aggregated_map_is_the_published_one(fgfa_shapes: Any, tmp_path: Path) -> None:
    model = {name: value_by_formula(name, shape) for name, shape in fgfa_shapes.items()}
    for name in ("flownet.Convolution5.weight", "flownet.Convolution5.bias"):
        model[name] = 0.3 * model[name]  # flows of a few cells
    settings = {"short_side": 90, "max_side": 140, "T": 2}
    imported = import_mega(saved(model, tmp_path), settings)
    method = method_spec("fgfa").build(imported.config, imported.num_classes)
    assert isinstance(method, FGFA)
    method.load_state_dict(imported.weights)
    method.eval()
    rng = np.random.default_rng(0)
    video = list(rng.integers(0, 256, (4, 90, 140, 3), dtype=np.uint8))
    config: Any = imported.config
    frames = [method.encode(image, config) for image in video]
    maps = torch.cat([method.detector.extract(frame.batch) for frame in frames])
    images = torch.cat([frame.batch.tensor for frame in frames])
    literal = Literal(model)
    for reference in (0, 1, 3):
        repeated = [min(max(index, 0), 3) for index in range(reference - 2, reference + 3)]
        expected = literal.aggregated(images[repeated], maps[repeated], 2)
        indices, copies = window(reference, 4, config)
        got = method.aggregated(
            [frames[index] for index in indices], copies, reference - indices.start, config, NullClock()
        )
        flow = literal.flow(torch.cat((images[reference : reference + 1], images[:1]), dim=1) / 255)
        assert 0.3 < flow.abs().max() < 20
        torch.testing.assert_close(got, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
