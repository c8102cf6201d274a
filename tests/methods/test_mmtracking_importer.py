"""mmtracking's SELSA: its own equations, from the published names, as the oracle; and files that are something else.

No file of the project is at hand, so checkpoints are made by formula over its key list. The literal network below reads
the published names only: mmdetection's backbone, ChannelMapper, RPN head and anchors, mmtracking's SelsaBBoxHead.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import typer
from torch import Tensor
from typer.testing import CliRunner

from vodbench.checkpoints import load_checkpoint
from vodbench.cli import import_weights
from vodbench.errors import UserError
from vodbench.registry import load_object, method_spec
from vodbench_methods.detection.anchors import grid_anchors
from vodbench_methods.importers.mmtracking import import_mmtracking
from vodbench_methods.selsa.model import SELSA

HEAD = "detector.roi_head.bbox_head."
NECK, FC = 16, 64  # narrower than published (512, 1024); 16 attention blocks as published
SETTINGS = {"proposals": 20, "candidates": 100, "short_side": 64, "max_side": 96}


def published_shapes(
    depth: tuple[int, ...] = (3, 4, 6, 3), neck: int = NECK, rpn: int = NECK, fc: int = FC, classes: int = 30
) -> dict[str, tuple[int, ...]]:
    """Every key of a published SELSA file with its shape: Faster R-CNN "DC5" with two aggregators."""
    shapes: dict[str, tuple[int, ...]] = {"detector.backbone.conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    norm("detector.backbone.bn1", 64)
    inputs = 64
    for stage, blocks in enumerate(depth):
        width = 64 * 2**stage
        for block in range(blocks):
            name = f"detector.backbone.layer{stage + 1}.{block}"
            convolutions = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for number, shape in enumerate(convolutions, start=1):
                shapes[f"{name}.conv{number}.weight"] = shape
                norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    layer("detector.neck.convs.0.conv", neck, 2048, 3, 3)
    layer("detector.rpn_head.rpn_conv", rpn, neck, 3, 3)
    layer("detector.rpn_head.rpn_cls", 12, rpn, 1, 1)
    layer("detector.rpn_head.rpn_reg", 48, rpn, 1, 1)
    layer(f"{HEAD}fc_cls", classes + 1, fc)
    layer(f"{HEAD}fc_reg", 4 * classes, fc)
    for index in range(2):
        layer(f"{HEAD}shared_fcs.{index}", fc, fc if index else neck * 49)
        for part in ("fc_embed", "ref_fc_embed", "fc", "ref_fc"):
            layer(f"{HEAD}aggregator.{index}.{part}", fc, fc)
    return shapes


def value_by_formula(name: str, shape: tuple[int, ...]) -> Tensor:
    rng = np.random.default_rng([7, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
        return torch.tensor(5)
    if name.endswith("running_var"):
        return torch.from_numpy(rng.uniform(0.5, 1.5, shape).astype(np.float32))
    if ".bn" in name or "downsample.1" in name:
        centre = 0.5 if name.endswith("weight") else 0.0
        return torch.from_numpy((centre + 0.1 * rng.standard_normal(shape)).astype(np.float32))
    spread = 0.1 if name.endswith("bias") else math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy((spread * rng.standard_normal(shape)).astype(np.float32))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return {name: value_by_formula(name, shape) for name, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def file(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("mmtracking") / "selsa.pth"
    names = tuple(info.name for info in load_object("vodbench_datasets.ilsvrc.classes:VID_CLASSES"))
    torch.save({"meta": {"CLASSES": names, "mmtrack_version": "0.5.0"}, "state_dict": published}, path)
    return str(path)


@pytest.fixture(scope="module")
def method(file: str) -> SELSA:
    imported = import_mmtracking(file, SETTINGS)
    assert (imported.method, imported.num_classes) == ("selsa", 30)
    module = method_spec("selsa").build(imported.config, imported.num_classes)
    assert isinstance(module, SELSA)
    module.load_state_dict(imported.weights)
    return module.eval()


# ---- the published network, literally


def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)


def literal_map(w: dict[str, Tensor], pixels: np.ndarray[Any, Any]) -> Tensor:
    """Normalised RGB -> ResNet-50 with stride 1 and dilation 2 in all of conv5 -> 3x3 convolution, ReLU."""
    net = torchvision.models.resnet50().eval()
    prefix = "detector.backbone."
    wanted = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
    problems = net.load_state_dict(wanted, strict=False)
    assert set(problems.missing_keys) == {"fc.weight", "fc.bias"}
    assert not problems.unexpected_keys
    for block in net.layer4:
        block.conv2.stride, block.conv2.dilation, block.conv2.padding = (1, 1), (2, 2), (2, 2)
    net.layer4[0].downsample[0].stride = (1, 1)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = ((torch.from_numpy(pixels).float() - mean) / std).permute(2, 0, 1)[None].contiguous()
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    x = net.layer4(net.layer3(net.layer2(net.layer1(x))))
    return F.relu(convolved(w, "detector.neck.convs.0.conv", x))


def convolved(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{HEAD}{name}.weight"], w[f"{HEAD}{name}.bias"])


def literal_head(w: dict[str, Tensor], x: Tensor, ref_x: Tensor) -> tuple[Tensor, Tensor]:
    """SelsaBBoxHead: class logits with the background last, and box deltas without it."""
    blocks = 16
    for index in range(2):
        x, ref_x = linear(w, f"shared_fcs.{index}", x), linear(w, f"shared_fcs.{index}", ref_x)
        embedded = linear(w, f"aggregator.{index}.fc_embed", x).view(len(x), blocks, -1)
        keys = linear(w, f"aggregator.{index}.ref_fc_embed", ref_x).view(len(ref_x), blocks, -1)
        shares = (torch.einsum("qbd,kbd->bqk", embedded, keys) / keys.shape[2] ** 0.5).softmax(dim=2)
        values = linear(w, f"aggregator.{index}.ref_fc", ref_x).view(len(ref_x), blocks, -1)
        gathered = torch.einsum("bqk,kbd->qbd", shares, values).flatten(1)
        x = F.relu(x + linear(w, f"aggregator.{index}.fc", gathered))
        ref_x = F.relu(ref_x)
    return linear(w, "fc_cls", x), linear(w, "fc_reg", x)


def literal_anchors(height: int, width: int) -> Tensor:
    """mmdetection's AnchorGenerator: base size 16, scales 4..32, no centre offset; rows, columns, ratios, scales."""
    rows = []
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                for scale in (4, 8, 16, 32):
                    w, h = 16 / math.sqrt(ratio) * scale, 16 * math.sqrt(ratio) * scale
                    rows.append([16 * x - w / 2, 16 * y - h / 2, 16 * x + w / 2, 16 * y + h / 2])
    return torch.tensor(rows)


@torch.no_grad()
def test_maps_and_proposals_are_the_published_networks(published: dict[str, Tensor], method: SELSA) -> None:
    expected = literal_map(published, image())
    of_rpn, of_rois = method.features(method.preprocess([image()]))  # of the size asked for: nothing is resized
    torch.testing.assert_close(of_rois, expected, atol=1e-4, rtol=1e-3)
    assert of_rpn is of_rois
    output = method.rpn(of_rpn)
    hidden = F.relu(convolved(published, "detector.rpn_head.rpn_conv", expected))
    logits = convolved(published, "detector.rpn_head.rpn_cls", hidden)[0]
    torch.testing.assert_close(output.logits[0], logits.permute(1, 2, 0).flatten(), atol=1e-3, rtol=1e-3)
    deltas = convolved(published, "detector.rpn_head.rpn_reg", hidden)[0]
    torch.testing.assert_close(output.deltas[0], deltas.permute(1, 2, 0).reshape(-1, 4), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(output.anchors, literal_anchors(4, 6), atol=1e-3, rtol=0)
    torch.testing.assert_close(grid_anchors(method.rpn.cells, 16, (4, 6)), output.anchors)


@torch.no_grad()
def test_the_head_is_the_published_networks(published: dict[str, Tensor], method: SELSA) -> None:
    rng = torch.Generator().manual_seed(0)
    pooled, ref_pooled = (torch.randn(n, NECK * 49, generator=rng).relu() for n in (7, 11))
    expected_logits, expected_deltas = literal_head(published, pooled, ref_pooled)
    frames = method.encode(image(), method.config).top(0)
    supports = type(frames)(torch.zeros(11, 4), torch.zeros(11), method.fcs[0](ref_pooled), frames.size, frames.resized)
    features = method.aggregate(method.fcs[0](pooled), method.gather([method.support(supports)]))
    logits, deltas = method.predictor(features)
    torch.testing.assert_close(logits[:, 1:], expected_logits[:, :-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits[:, 0], expected_logits[:, -1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(deltas[:, 4:], expected_deltas, atol=1e-4, rtol=1e-3)
    assert [1 / w for w in method.config.box_weights] == pytest.approx([0.2] * 4)  # mmdetection's target_stds


def test_imported_weights_stream(method: SELSA) -> None:
    stream = method.stream()
    frames = [image(), image()[::-1].copy(), image()[:, ::-1].copy()]
    found = [d for frame in frames for d in stream.push(frame)] + stream.close()
    assert len(found) == 3
    assert all(0 < len(d.scores) <= 100 for d in found)


def constants(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A different number in each weight, stored once: published widths in a file of some kilobytes."""
    return {name: torch.tensor(float(i)).expand(shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(("depth", "backbone"), [((3, 4, 6, 3), "resnet50"), ((3, 4, 23, 3), "resnet101")])
def test_every_published_key_has_its_place(depth: tuple[int, ...], backbone: str, tmp_path: Path) -> None:
    model = constants(published_shapes(depth, neck=512, rpn=512, fc=1024))
    path = saved(model, tmp_path)
    imported = import_mmtracking(path)
    config: Any = imported.config
    assert (config.backbone, config.conv5_reduction, config.rpn_channels, config.fc_channels, config.modules) == (
        backbone,
        512,
        512,
        1024,
        2,
    )
    parts = {
        "neck.convs.0.conv": "reduction",
        "rpn_head.rpn_conv": "rpn.conv",
        "rpn_head.rpn_cls": "rpn.cls_logits",
        "rpn_head.rpn_reg": "rpn.bbox_pred",
        "roi_head.bbox_head.shared_fcs.0": "fcs.0",
        "roi_head.bbox_head.shared_fcs.1": "fcs.1",
        "roi_head.bbox_head.fc_cls": "predictor.cls_score",
        "roi_head.bbox_head.fc_reg": "predictor.bbox_pred",
    }
    for index in range(2):
        for theirs, ours in (("fc_embed", "query"), ("ref_fc_embed", "key"), ("ref_fc", "value"), ("fc", "output")):
            parts[f"roi_head.bbox_head.aggregator.{index}.{theirs}"] = f"aggregators.{index}.{ours}"
    placed = set()
    for name, value in model.items():
        if name.endswith("num_batches_tracked"):
            continue
        place, _, kind = name.removeprefix("detector.").rpartition(".")
        ours = f"{parts.get(place, place)}.{kind}"
        placed.add(ours)
        weight = imported.weights[ours]
        weight = weight[4:] if place.endswith("fc_reg") else weight
        assert weight.shape == value.shape
        assert (weight == value.flatten()[0]).all(), name
    assert placed == set(imported.weights)
    assert not imported.weights["predictor.bbox_pred.weight"][:4].any()


# ---- files that do not fit


def saved(model: Any, folder: Path, **meta: Any) -> str:
    path = folder / "other.pth"
    torch.save({"meta": meta, "state_dict": model}, path)
    return str(path)


def test_mismatch_lists_missing_and_unexpected(tmp_path: Path) -> None:
    model = constants(published_shapes())
    del model[f"{HEAD}aggregator.1.ref_fc.bias"]
    model["detector.rpn_head.extra"] = torch.zeros(1)
    model[f"{HEAD}fc_reg.bias"] = torch.zeros(124)
    with pytest.raises(UserError) as raised:
        import_mmtracking(saved(model, tmp_path))
    message = str(raised.value)
    assert "\n" not in message
    assert "mmtracking's layout 'SELSA (2 modules, resnet50)'" in message
    assert f"missing {HEAD}aggregator.1.ref_fc.bias;" in message
    assert "unexpected detector.rpn_head.extra;" in message
    assert "fc_reg.bias [124] instead of [120]" in message


@pytest.mark.parametrize("motion", [True, False])
def test_another_network_is_refused(motion: bool, tmp_path: Path) -> None:
    model = {name: value for name, value in constants(published_shapes()).items() if "aggregator" not in name}
    if motion:
        model["motion.conv1.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"holds no 'detector\.roi_head\.bbox_head\.aggregator'") as raised:
        import_mmtracking(saved(model, tmp_path))
    assert ("flow network" in str(raised.value)) == motion


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    model = {k: v for k, v in constants(published_shapes()).items() if "layer3.5" not in k}
    with pytest.raises(UserError, match=r"5 blocks in layer3 .* resnet50, resnet101"):
        import_mmtracking(saved(model, tmp_path))


def test_megas_layout_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"backbone.body.stem.conv1.weight": torch.zeros(1)}}, tmp_path / "mega.pth")
    with pytest.raises(UserError, match=r"expected \{state_dict: state dict, \.\.\.\}, got \{model\}"):
        import_mmtracking(str(tmp_path / "mega.pth"))


def test_meta_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scores 30 classes but its meta names"):
        import_mmtracking(saved(constants(published_shapes()), tmp_path, CLASSES=("one", "two")))


# ---- the command


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    app.add_typer(import_weights.app, name="import")
    return lambda *arguments: CliRunner().invoke(app, ["import", "mmtracking", *map(str, arguments)])


def test_command_writes_a_checkpoint_that_loads(run: Any, file: str, tmp_path: Path) -> None:
    assert run(file, "--out", tmp_path, "--set", "test_frames=21").exit_code == 0
    checkpoint = load_checkpoint(str(tmp_path), "selsa")
    assert checkpoint.classes[0].name == "airplane"
    assert checkpoint.config.to_mapping()["test_frames"] == 21
    checkpoint.build()


def test_command_refuses_other_class_names(run: Any, tmp_path: Path) -> None:
    names = [f"thing {i}" for i in range(30)]
    path = saved(constants(published_shapes()), tmp_path, CLASSES=names)
    result = run(path, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert "names its class 1 'thing 0', but ImageNet VID's is 'airplane'" in str(result.exception)
    assert not (tmp_path / "out").exists()
    (tmp_path / "classes.txt").write_text("".join(f"n{i} thing {i}\n" for i in range(30)))
    assert run(path, "--out", tmp_path / "out", "--classes", tmp_path / "classes.txt").exit_code == 0
