"""Relation Networks inside one frame, against the equations written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.errors import UserError
from vodbench_methods.detection.records import Proposals
from vodbench_methods.relation.reference import relation_reference
from vodbench_methods.relation_network.config import RelationNetworkConfig
from vodbench_methods.relation_network.model import SPEC, RelationNetwork

METHOD = "relation-network"


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
def test_related_features_equal_the_equations(tiny: Any, order: str, floor: str, count: int, fc_layers: int) -> None:
    method = tiny.method(relation_order=order, relation_floor=floor, fc_layers=fc_layers)
    z, boxes = proposals(count)
    with torch.no_grad():
        got, expected = method.relate(z, boxes), literal(method, z, boxes, slice(None))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_rows_before_the_first_key_change_nothing_for_the_others(tiny: Any) -> None:
    method = tiny.method()
    z, boxes = proposals(9)
    with torch.no_grad():
        got, expected = method.relate(z, boxes, first_key=4), literal(method, z, boxes, slice(4, None))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got[4:], method.relate(z[4:], boxes[4:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train_keys", ["sampled", "proposals"])
def test_training_relates_the_sampled_rois_of_each_frame(
    tiny: Any, train_keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each other, or the frame's proposals; with all proposals sampled, ``sampled`` is what a stream computes."""
    method = tiny.method(train_keys=train_keys)
    frames = tiny.images(2)
    with torch.no_grad():
        streamed = [method.encode(image, method.config) for image in frames]
        same = [Proposals(f.boxes, f.objectness) for f in streamed]
        sampled = same if train_keys == "sampled" else [p.top(3) for p in same]
        monkeypatch.setattr(method, "propose_for_training", lambda output, sizes: same)
        monkeypatch.setattr(method, "sample_rois", lambda proposals, targets: sampled)
        monkeypatch.setattr(method, "head_losses", lambda features, samples: {"features": features})
        trained = method.losses([tiny.clip([image]) for image in frames])["features"]
        # A sampled proposal attends to all of the frame's, itself among them: as at test, whatever else is sampled.
        expected = [method.relate(f.features, f.boxes)[: len(s.boxes)] for f, s in zip(streamed, sampled, strict=True)]
    torch.testing.assert_close(trained, torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_a_frozen_detector_does_not_move(tiny: Any) -> None:
    config = tiny.config()
    method = RelationNetwork(config, 3)
    method.begin_stage(SPEC.stages(config)[-1])
    before = {name: weight.clone() for name, weight in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses([tiny.clip([image]) for image in tiny.images(2)]).values())).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, w in method.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"fcs", "relations", "predictor"}


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
