"""Box arithmetic and anchors against loops over plain numbers, and against published anchors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench_methods.detection.anchors import cell_anchors, grid_anchors
from vodbench_methods.detection.boxes import clip, decode, encode, pairwise_iou, suppress
from vodbench_methods.detection.grouped_nms import FEW_BOXES, suppress_in_groups, suppress_per_class

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
EXTENTS = [0.0, 1.0]


def random_boxes(count: int, seed: int, size: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * size * 0.6
    return torch.cat((corner, corner + 3 + torch.rand(count, 2, generator=generator) * size * 0.4), dim=1)


def iou_of(a: list[float], b: list[float], extent: float) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + extent
    h = min(a[3], b[3]) - max(a[1], b[1]) + extent
    inter = max(w, 0.0) * max(h, 0.0)
    areas = [(c[2] - c[0] + extent) * (c[3] - c[1] + extent) for c in (a, b)]
    return inter / (sum(areas) - inter)


def greedy(boxes: list[list[float]], scores: list[float], threshold: float, extent: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou_of(boxes[index], boxes[k], extent) <= threshold for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("extent", EXTENTS)
def test_decode_inverts_encode(extent: float) -> None:
    boxes, anchors = random_boxes(30, 0), random_boxes(30, 1)
    decoded = decode(encode(boxes, anchors, WEIGHTS, extent), anchors, WEIGHTS, extent)
    torch.testing.assert_close(decoded, boxes, rtol=0, atol=1e-4)


def test_encode_is_the_papers_formula() -> None:
    """A box of 20 x 10 at (30, 40) seen from an anchor of 40 x 40 at (20, 20)."""
    box, anchor = torch.tensor([[20.0, 35.0, 40.0, 45.0]]), torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    expected = torch.tensor([[10 * 10 / 40, 10 * 20 / 40, 5 * math.log(0.5), 5 * math.log(0.25)]])
    torch.testing.assert_close(encode(box, anchor, WEIGHTS), expected)


def test_inclusive_boxes_are_one_wider() -> None:
    """0..9 is ten pixels: twice that is 0..19, around a centre five pixels further."""
    anchor = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    deltas = torch.tensor([[0.5, 0.5, math.log(2.0), math.log(2.0)]])
    torch.testing.assert_close(decode(deltas, anchor, (1, 1, 1, 1), 1.0), torch.tensor([[0.0, 0.0, 19.0, 19.0]]))


def test_decode_of_several_classes_is_each_by_itself() -> None:
    anchors = random_boxes(6, 2)
    deltas = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    together = decode(deltas, anchors, WEIGHTS, 1.0).view(6, 3, 4)
    for index in range(3):
        torch.testing.assert_close(together[:, index], decode(deltas.view(6, 3, 4)[:, index], anchors, WEIGHTS, 1.0))


def test_a_wild_prediction_stays_finite() -> None:
    decoded = decode(torch.full((1, 4), 1e6), torch.tensor([[0.0, 0.0, 16.0, 16.0]]), (1e6, 1e6, 1, 1))
    assert decoded.isfinite().all()
    torch.testing.assert_close(decoded[0, 2] - decoded[0, 0], torch.tensor(1000.0), rtol=1e-4, atol=0)


def test_clip_keeps_boxes_on_pixels() -> None:
    boxes = torch.tensor([[-5.0, -1.0, 300.0, 50.0, 3.0, 4.0, 5.0, 6.0]])
    assert clip(boxes, (40, 60)).tolist() == [[0, 0, 59, 39, 3, 4, 5, 6]]


@pytest.mark.parametrize("extent", EXTENTS)
def test_pairwise_iou(extent: float) -> None:
    a, b = random_boxes(7, 3, 30.0), random_boxes(9, 4, 30.0)
    expected = [[iou_of(x, y, extent) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(pairwise_iou(a, b, extent), torch.tensor(expected))


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppress_is_greedy(threshold: float, extent: float) -> None:
    boxes, scores = random_boxes(60, 5, 40.0), torch.rand(60, generator=torch.Generator().manual_seed(6))
    assert suppress(boxes, scores, threshold, extent).tolist() == greedy(
        boxes.tolist(), scores.tolist(), threshold, extent
    )


def test_suppress_per_class_spares_other_classes() -> None:
    boxes, scores = random_boxes(60, 7, 40.0), torch.rand(60, generator=torch.Generator().manual_seed(8))
    labels = torch.arange(60) % 4
    expected = []
    for label in range(4):
        members = torch.where(labels == label)[0].tolist()
        kept = greedy(boxes[members].tolist(), scores[members].tolist(), 0.4, 0.0)
        expected += [members[k] for k in kept]
    expected.sort(key=lambda i: -float(scores[i]))
    assert suppress_per_class(boxes, scores, labels, 0.4).tolist() == expected


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_groups_of_any_size_are_suppressed_as_if_each_was_alone(threshold: float, extent: float) -> None:
    """Groups of one box, of as many as are done at once, and of more; scores that tie; boxes without extent."""
    sizes = [1, 2, 3, FEW_BOXES - 1, FEW_BOXES, FEW_BOXES + 1, 2 * FEW_BOXES, *range(1, 40)]
    generator = torch.Generator().manual_seed(9)
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    groups = groups[torch.randperm(len(groups), generator=generator)] * 3 - 5
    boxes = random_boxes(len(groups), 10, 40.0)
    boxes[::7, 2:] = boxes[::7, :2]
    boxes[1::5] = boxes[0]
    scores = (torch.rand(len(groups), generator=generator) * 50).round() / 50
    got = suppress_in_groups(boxes, scores, groups, threshold, extent)
    for group in groups.unique():
        (members,) = torch.where(groups == group)
        stays = torch.zeros(len(members), dtype=torch.bool)
        stays[suppress(boxes[members], scores[members], threshold, extent)] = True
        assert torch.equal(got[members], stays)


def test_suppress_nothing() -> None:
    none = torch.zeros((0, 4))
    assert suppress(none, torch.zeros(0), 0.5).shape == (0,)
    assert suppress_per_class(none, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)


def test_rounded_anchors_are_those_of_py_faster_rcnn() -> None:
    """The nine boxes printed in generate_anchors.py of rbgirshick/py-faster-rcnn (scales 8, 16, 32)."""
    published = [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
        [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
        [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
    ]  # fmt: skip
    anchors = cell_anchors((128, 256, 512), (0.5, 1, 2), 16, rounded=True)
    np.testing.assert_array_equal(anchors, published)


def test_plain_anchors_have_exact_area_and_ratio() -> None:
    anchors = cell_anchors((28.0, 64.0), (0.5, 1.0, 2.0), 8, rounded=False)
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    np.testing.assert_allclose(np.sqrt(width * height), [28, 64] * 3, rtol=1e-6)
    np.testing.assert_allclose(height / width, np.repeat([0.5, 1.0, 2.0], 2), rtol=1e-6)
    np.testing.assert_allclose((anchors[:, 0] + anchors[:, 2]) / 2, 3.5)  # the middle of pixels 0..7


def test_ratio_that_rounds_away_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty box"):
        cell_anchors((64,), (1e-6,), 16, rounded=True)


def test_grid_goes_row_by_row() -> None:
    cells = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0]])
    anchors = grid_anchors(cells, 8, (2, 3))
    assert len(anchors) == 12
    assert anchors[0].tolist() == [0, 0, 4, 4]
    assert anchors[3].tolist() == [9, 1, 10, 2]  # second column, second anchor
    assert anchors[6].tolist() == [0, 8, 4, 12]  # second row
