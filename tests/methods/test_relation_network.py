"""Relation Networks inside one frame, against the equations written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Image, Truth
from vodbench_methods.detection.faster_rcnn import FasterRCNN
from vodbench_methods.detection.records import Proposals
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.relation.reference import relation_reference
from vodbench_methods.relation_network.config import RelationNetworkConfig
from vodbench_methods.relation_network.model import SPEC, RelationNetwork

SHRUNK = {
    "short_side": 48,
    "max_side": 64,
    "proposals": 10,
    "candidates": 50,
    "train_proposals": 10,
    "train_candidates": 50,
    "fc_channels": 32,
    "heads": 4,
    "score_threshold": 0.01,
}


def config_of(**changes: Any) -> RelationNetworkConfig:
    return RelationNetworkConfig.from_mapping({**SPEC.presets["tiny"], **SHRUNK, **changes})


def perturbed(config: RelationNetworkConfig) -> RelationNetwork:
    torch.manual_seed(1)
    method = RelationNetwork(config, 3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval()


def proposals(count: int) -> tuple[Tensor, Tensor]:
    """Made-up features (count, 32) after the first layer, and boxes (count, 4)."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 15], dim=1)
    return torch.randn(count, 32, generator=generator), boxes


def literal(method: RelationNetwork, z: Tensor, boxes: Tensor, keys: slice) -> Tensor:
    """Eq. 6 and 9, layer by layer, from what the first layer gave."""
    pre = method.config.relation_order == "pre"
    x = z
    for index, relation in enumerate(method.relations):
        if index:
            x = method.fcs[index](x)
            x = F.relu(x) if pre else x
        x = x + relation_reference(relation, x, boxes, x[keys], boxes[keys])  # type: ignore[arg-type]
        x = x if pre else F.relu(x)
    return x


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("floor", ["max", "add"])
@pytest.mark.parametrize(("count", "fc_layers"), [(9, 2), (1, 2), (6, 1), (5, 3)])
def test_related_features_equal_the_equations(order: str, floor: str, count: int, fc_layers: int) -> None:
    method = perturbed(config_of(relation_order=order, relation_floor=floor, fc_layers=fc_layers))
    z, boxes = proposals(count)
    with torch.no_grad():
        got, expected = method.relate(z, boxes), literal(method, z, boxes, slice(None))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_rows_before_the_first_key_change_nothing_for_the_others() -> None:
    method = perturbed(config_of())
    z, boxes = proposals(9)
    with torch.no_grad():
        got, expected = method.relate(z, boxes, first_key=4), literal(method, z, boxes, slice(4, None))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got[4:], method.relate(z[4:], boxes[4:]), atol=1e-4, rtol=1e-4)


def images(count: int) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 255, (count, 48, 48, 3), dtype=np.uint8))


def clips_of(frames: list[Image]) -> list[Clip]:
    ones = np.ones(1, np.int64)
    truth = Truth(np.array([[8, 8, 30, 30]], np.float32), 2 * ones, ones, np.array([False]), np.array([False]))
    return [Clip(i, "s", ClipFrame(i, image, truth), (), False) for i, image in enumerate(frames)]


@pytest.mark.parametrize("train_keys", ["sampled", "proposals"])
def test_training_relates_the_sampled_rois_of_each_frame(train_keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each other, or the frame's proposals; with all proposals sampled, ``sampled`` is what a stream computes."""
    method = perturbed(config_of(train_keys=train_keys))
    frames = images(2)
    with torch.no_grad():
        streamed = [method.encode(image, method.config) for image in frames]
        same = [Proposals(f.boxes, f.objectness) for f in streamed]
        sampled = same if train_keys == "sampled" else [p.top(3) for p in same]
        monkeypatch.setattr(method, "propose_for_training", lambda output, sizes: same)
        monkeypatch.setattr(method, "sample_rois", lambda proposals, targets: sampled)
        monkeypatch.setattr(method, "head_losses", lambda features, samples: {"features": features})
        trained = method.losses(clips_of(frames))["features"]
        # A sampled proposal attends to all of the frame's, itself among them: as at test, whatever else is sampled.
        expected = [method.relate(f.features, f.boxes)[: len(s.boxes)] for f, s in zip(streamed, sampled, strict=True)]
    torch.testing.assert_close(trained, torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_a_frozen_detector_does_not_move() -> None:
    config = config_of()
    method = RelationNetwork(config, 3)
    method.begin_stage(SPEC.stages(config)[-1])
    before = {name: weight.clone() for name, weight in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses(clips_of(images(2))).values())).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, w in method.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"fcs", "relations", "predictor"}


@pytest.mark.parametrize("order", ["post", "pre"])
def test_warm_start_begins_at_the_detectors_answers(order: str) -> None:
    """With relations that add nothing, it *is* the detector in either order."""
    config = config_of(relation_order=order)
    torch.manual_seed(3)
    detector = FasterRCNN(narrowed(config, method_spec("faster-rcnn").config), 3).eval()  # type: ignore[arg-type]
    method = RelationNetwork(config, 3).eval()
    method.load_initial(detector.state_dict())
    for relation in method.relations:
        torch.nn.init.zeros_(relation.value.weight)  # type: ignore[arg-type, union-attr]
    stream, single = method.stream(), detector.stream()
    for image in images(3):
        (got,), (expected,) = stream.push(image), single.push(image)
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-4, rtol=0)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 7}, r"heads = 7 does not divide fc_channels = 1024"),
        ({"relation_order": "after"}, r"relation_order = 'after' .*post, pre"),
        ({"train_keys": "all"}, r"train_keys = 'all' .*sampled, proposals"),
        ({"freeze_detector": True}, r"freeze_detector = True with warm_start = 'none'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        RelationNetworkConfig.from_mapping(values)
    assert "\n" not in str(error.value)
