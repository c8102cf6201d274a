"""mega.pytorch's full RDN: 569 keys, each in its place, and its forward pass from the published names.

No detections of the full RDN are at hand. The stages before it are held to golden detections in
``test_mega_importer``; here its head is computed literally from the file, with the relation module's slow reference.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.transforms import Resized
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.importers.mega import import_mega
from vodbench_methods.rdn.full import RDN
from vodbench_methods.relation import ObjectRelation
from vodbench_methods.relation.reference import relation_reference

EXTRACTOR = "roi_heads.box.feature_extractor."


def published_shapes(blocks: int = 23, dim: int = 1024, reduced: int | None = None) -> dict[str, tuple[int, ...]]:
    """Every key of the published RDN file with its shape: R-101, two basic modules, refine and distil."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    shapes["backbone.body.stem.conv1.weight"] = (64, 3, 7, 7)
    norm("backbone.body.stem.bn1", 64)
    inputs = 64
    for stage, count in enumerate((3, 4, blocks, 3), start=1):
        width = 32 * 2**stage
        for block in range(count):
            prefix = "backbone.body." if stage < 4 else f"{EXTRACTOR}head."
            name = f"{prefix}layer{stage}.{block}"
            convolutions = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for number, shape in enumerate(convolutions, start=1):
                shapes[f"{name}.conv{number}.weight"] = shape
                norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    shapes["rpn.anchor_generator.cell_anchors.0"] = (12, 4)
    layer("rpn.head.conv", 1024, 1024, 3, 3)
    layer("rpn.head.cls_logits", 12, 1024, 1, 1)
    layer("rpn.head.bbox_pred", 48, 1024, 1, 1)
    if reduced is not None:
        layer(f"{EXTRACTOR}conv", reduced, 2048, 1, 1)
    for index in range(3):
        layer(f"{EXTRACTOR}fcs.{index}", dim, dim if index else 49 * (reduced or 2048))
    for index in range(4):
        layer(f"{EXTRACTOR}Wgs.{index}", 16, 64, 1, 1)
        layer(f"{EXTRACTOR}Wqs.{index}", dim, dim)
        layer(f"{EXTRACTOR}Wks.{index}", dim, dim)
        layer(f"{EXTRACTOR}Wvs.{index}", dim, dim, 1, 1)
    layer("roi_heads.box.predictor.cls_score", 31, dim)
    layer("roi_heads.box.predictor.bbox_pred", 124, dim)
    return shapes


def anchors() -> Tensor:
    """mega.pytorch's: a base box of 16 px, ratios in whole pixels, then scales."""
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = round((256 / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in (4, 8, 16, 32):
            w, h = width * scale - 1, height * scale - 1
            rows.append([7.5 - w / 2, 7.5 - h / 2, 7.5 + w / 2, 7.5 + h / 2])
    return torch.tensor(rows)


def constants() -> dict[str, Tensor]:
    """A different number in each weight, stored once: the published widths in a file of some kilobytes."""
    model = {n: torch.tensor(float(i)).expand(shape) for i, (n, shape) in enumerate(published_shapes().items())}
    return {**model, "rpn.anchor_generator.cell_anchors.0": anchors()}


def saved(model: Any, folder: Path) -> str:
    torch.save({"model": {f"module.{name}": value for name, value in model.items()}}, folder / "rdn.pth")
    return str(folder / "rdn.pth")


def our_name(published: str) -> str:
    """Written apart from the importer, the other way round."""
    name = published.removeprefix(EXTRACTOR)
    part, _, kind = name.rpartition(".")
    relations = ("relations.0", "relations.1", "refine", "distil")
    projections = {"Wgs": "geometry", "Wqs": "query", "Wks": "key", "Wvs": "value"}
    if part[:3] in projections:
        return f"{relations[int(part[4:])]}.{projections[part[:3]]}.{kind}"
    if part == "fcs.2":
        return f"refine_fc.{kind}"
    for theirs, ours in (
        ("backbone.body.stem.", "backbone."),
        ("backbone.body.", "backbone."),
        ("head.layer4.", "backbone.layer4."),
        ("rpn.head.", "rpn."),
        ("roi_heads.box.predictor.", "predictor."),
    ):
        if name.startswith(theirs):
            return name.replace(theirs, ours, 1)
    return name


def test_all_569_keys_have_their_places(tmp_path: Path) -> None:
    model = constants()
    assert len(model) == 569
    imported = import_mega(saved(model, tmp_path))
    config: Any = imported.config
    assert (imported.method, imported.num_classes) == ("rdn", 30)
    assert (config.backbone, config.N_b, config.heads, config.fc_channels) == ("resnet101", 2, 16, 1024)
    assert (config.T, config.K, config.r, config.top_r) == (18, 75, 20.0, "frame")
    del model["rpn.anchor_generator.cell_anchors.0"]
    assert {our_name(name) for name in model} == set(imported.weights)
    for name, value in model.items():
        weight = imported.weights[our_name(name)]
        assert weight.numel() == value.numel(), name
        assert (weight == value.flatten()[0]).all(), name


def test_mismatch_lists_missing_and_unexpected(tmp_path: Path) -> None:
    model = constants()
    for kind in ("weight", "bias"):
        del model[f"{EXTRACTOR}Wks.3.{kind}"]
    model[f"{EXTRACTOR}Wus.3"] = torch.zeros(1)
    with pytest.raises(UserError) as raised:
        import_mega(saved(model, tmp_path))
    message = str(raised.value)
    assert "\n" not in message
    assert "mega.pytorch's layout 'RDN (2 basic modules, advanced stage)'" in message
    assert f"missing {EXTRACTOR}Wks.3.bias, {EXTRACTOR}Wks.3.weight;" in message
    assert f"unexpected {EXTRACTOR}Wus.3;" in message


# ---- the head, literally


def value_by_formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """The golden checkpoints' formula, with biases that are not zero."""
    rng = np.random.default_rng([3, zlib.crc32(name.encode())])
    if name.endswith(("running_mean", "running_var")) or ".bn" in name or "downsample.1" in name:
        return torch.full(shape, 1.0 if name.endswith("running_var") else 0.5)
    gain = 0.1 if name.endswith("bias") else math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy((gain * rng.standard_normal(shape)).astype(np.float32))


DIM = 64  # sixteen heads of four


@pytest.fixture(scope="module")
def model() -> dict[str, Tensor]:
    shapes = published_shapes(blocks=6, dim=DIM, reduced=8)
    return {**{n: value_by_formula(n, s) for n, s in shapes.items()}, "rpn.anchor_generator.cell_anchors.0": anchors()}


class Literal:
    """``RDNFeatureExtractor`` in its order of operations."""

    def __init__(self, model: dict[str, Tensor]) -> None:
        self.model = model

    def fc(self, index: int, x: Tensor) -> Tensor:
        name = f"{EXTRACTOR}fcs.{index}"
        return F.relu(F.linear(x, self.model[f"{name}.weight"], self.model[f"{name}.bias"]))

    def attention(self, index: int, x: Tensor, boxes: Tensor, refs: Tensor, ref_boxes: Tensor) -> Tensor:
        module = ObjectRelation(DIM, 16, "add")
        for ours, theirs in (
            (module.geometry, "Wgs"),
            (module.query, "Wqs"),
            (module.key, "Wks"),
            (module.value, "Wvs"),
        ):
            name = f"{EXTRACTOR}{theirs}.{index}"
            ours.weight.data = self.model[f"{name}.weight"].flatten(1)
            ours.bias.data = self.model[f"{name}.bias"]
        return relation_reference(module, x, boxes, refs, ref_boxes)

    def features(self, pooled: Tensor, boxes: Tensor, frames: Sequence[tuple[Tensor, Tensor]], best: int) -> Tensor:
        """``frames``: pooled RoIs and boxes of each frame of the window, best first."""
        each = [self.fc(0, p) for p, _ in frames]
        refs, ref_boxes = torch.cat(each), torch.cat([b for _, b in frames])
        x = pooled
        for index in range(2):
            x = self.fc(index, x)
            x = x + self.attention(index, x, boxes, refs, ref_boxes)
        adv, adv_boxes = torch.cat([r[:best] for r in each]), torch.cat([b[:best] for _, b in frames])
        adv = self.fc(2, adv + self.attention(2, adv, adv_boxes, refs, ref_boxes))
        return x + self.attention(3, x, boxes, adv, adv_boxes)


@torch.no_grad()
def test_the_head_is_the_published_one(model: dict[str, Tensor], tmp_path: Path) -> None:
    imported = import_mega(saved(model, tmp_path), {"K": 5, "r": 40.0})
    method = method_spec("rdn").build(imported.config, imported.num_classes)
    assert isinstance(method, RDN)
    method.load_state_dict(imported.weights)
    method.eval()
    rng = torch.Generator().manual_seed(0)
    window = []
    for number in (9, 5, 5):  # the reference frame's own first
        corner = torch.rand(number, 2, generator=rng) * 60
        boxes = torch.cat([corner, corner + 4 + torch.rand(number, 2, generator=rng) * 40], dim=1)
        window.append((torch.randn(number, 8 * 49, generator=rng).relu(), boxes))
    lent = [(pooled[:5], boxes[:5]) for pooled, boxes in window]
    expected = Literal(model).features(*window[0], lent, best=2)
    resized = Resized(np.empty((0, 0, 3), np.uint8), 1.0, 1.0)
    frames = [FrameFeatures(b, torch.linspace(1, 0, len(b)), method.first(p), (99, 99), resized) for p, b in window]
    supports = [method.support(frame.top(5)) for frame in frames]
    got = method.relate(frames[0].features, frames[0].boxes, method.gather(supports, None, method.config))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
