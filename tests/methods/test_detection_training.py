"""What a training step looks at and what it pays for, against loops over plain numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.detection.box_head import head_losses, select_detections
from vodbench_methods.detection.boxes import decode, encode, pairwise_iou, suppress
from vodbench_methods.detection.config import TINY, FasterRCNNConfig
from vodbench_methods.detection.records import Proposals, RoiSamples, Target
from vodbench_methods.detection.rpn import BACKGROUND, IGNORED, OBJECT, RegionProposalNetwork, RpnOutput
from vodbench_methods.detection.sampling import sample_balanced, sample_rois

NO_BOXES = torch.zeros((0, 4))
NO_LABELS = torch.zeros(0, dtype=torch.int64)
NOTHING = Target(NO_BOXES, NO_LABELS)


def config(**settings: Any) -> FasterRCNNConfig:
    return FasterRCNNConfig.from_mapping({**TINY, "anchor_sizes": (12.0, 24.0), **settings})


def rpn_and_output(shape: tuple[int, int] = (8, 10), images: int = 1, **settings: Any) -> tuple[Any, RpnOutput]:
    torch.manual_seed(0)
    rpn = RegionProposalNetwork(config(**settings), 6)
    for parameter in rpn.parameters():
        parameter.data.normal_(std=0.3)
    return rpn, rpn(torch.randn(images, 6, *shape))


def two_objects() -> Target:
    return Target(torch.tensor([[3.0, 2.0, 15.0, 13.0], [14.0, 8.0, 36.0, 31.0]]), torch.tensor([2, 1]))


# ---- region proposal network


def test_anchor_labels_follow_the_rules() -> None:
    rpn, output = rpn_and_output(rpn_foreground_iou=0.5, rpn_background_iou=0.3)
    target = two_objects()
    labels, matched = rpn._assign(output, (32, 40), target)
    iou = pairwise_iou(target.boxes, output.anchors)
    for anchor in range(len(output.anchors)):
        overlaps = iou[:, anchor]
        is_best = any(overlaps[o] == iou[o].max() for o in range(2))
        if is_best or overlaps.max() >= 0.5:
            assert labels[anchor] == OBJECT
            assert matched[anchor] == overlaps.argmax()
        else:
            assert labels[anchor] == (BACKGROUND if overlaps.max() < 0.3 else IGNORED)
    assert set(labels.tolist()) == {OBJECT, BACKGROUND, IGNORED}


def test_rpn_loss_over_all_anchors_is_the_papers() -> None:
    """With a batch larger than the map, nothing is random: BCE over anchors that count, smooth L1 over objects."""
    rpn, output = rpn_and_output(rpn_batch=100_000, rpn_positive_fraction=1.0, rpn_foreground_iou=0.5)
    output = RpnOutput(output.logits.detach(), output.deltas.detach(), output.anchors, output.shape)
    target = two_objects()
    losses = rpn.losses(output, [(32, 40)], [target])
    labels, matched = rpn._assign(output, (32, 40), target)
    count = int((labels != IGNORED).sum())
    objectness = sum(
        math.log1p(math.exp(-float(logit) if label == OBJECT else float(logit)))
        for logit, label in zip(output.logits[0], labels, strict=True)
        if label != IGNORED
    )
    box = 0.0
    for index in torch.where(labels == OBJECT)[0].tolist():
        own = slice(index, index + 1)
        wanted = encode(target.boxes[matched[own]], output.anchors[own], (1, 1, 1, 1))[0]
        for difference in (output.deltas[0, index] - wanted).abs().tolist():
            box += difference - 1 / 18 if difference > 1 / 9 else 4.5 * difference**2
    assert float(losses["rpn_objectness"]) == pytest.approx(objectness / count, rel=1e-4)
    assert float(losses["rpn_box"]) == pytest.approx(box / count, rel=1e-4)


def test_rpn_loss_of_an_empty_image_has_no_box_part() -> None:
    rpn, output = rpn_and_output()
    losses = rpn.losses(output, [(32, 40)], [NOTHING])
    assert float(losses["rpn_box"]) == 0
    assert float(losses["rpn_objectness"]) > 0


def test_losses_are_means_over_images() -> None:
    rpn, output = rpn_and_output(images=2, rpn_batch=100_000, rpn_positive_fraction=1.0)
    sizes, targets = [(32, 40), (32, 40)], [two_objects(), NOTHING]
    both = rpn.losses(output, sizes, targets)
    singles = [
        rpn.losses(
            RpnOutput(output.logits[i : i + 1], output.deltas[i : i + 1], output.anchors, output.shape), [s], [t]
        )
        for i, (s, t) in enumerate(zip(sizes, targets, strict=True))
    ]
    for name, value in both.items():
        torch.testing.assert_close(value, (singles[0][name] + singles[1][name]) / 2)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_proposals_are_the_best_boxes_after_nms(limit: int) -> None:
    rpn, output = rpn_and_output(rpn_nms_threshold=0.6)
    (proposals,) = rpn.propose(output, [(30, 38)], candidates=60, limit=limit)
    scores = output.logits[0].sigmoid()
    best = scores.argsort(descending=True)[:60]
    boxes = decode(output.deltas[0, best], output.anchors[best], (1, 1, 1, 1))
    boxes[:, 0::2].clamp_(0, 37)
    boxes[:, 1::2].clamp_(0, 29)
    kept = suppress(boxes, scores[best], 0.6)[:limit]
    torch.testing.assert_close(proposals.boxes, boxes[kept])
    torch.testing.assert_close(proposals.objectness, scores[best][kept])
    assert len(proposals.boxes) <= limit


def test_padding_of_a_batch_proposes_nothing() -> None:
    """An image padded to a larger one's size gives the proposals of its own part of the map."""
    rpn, output = rpn_and_output(shape=(8, 10), images=1)
    own = RpnOutput(
        output.logits.view(1, 8, 10, -1)[:, :5, :6].flatten(1),
        output.deltas.view(1, 8, 10, -1, 4)[:, :5, :6].flatten(1, 3),
        output.anchors.view(8, 10, -1, 4)[:5, :6].flatten(0, 2),
        (5, 6),
    )
    size = (18, 24)  # 4.5 x 6 cells of stride 4
    (padded,) = rpn.propose(output, [size], candidates=50, limit=20)
    (alone,) = rpn.propose(own, [size], candidates=50, limit=20)
    torch.testing.assert_close(padded.boxes, alone.boxes)
    labels, _ = rpn._assign(output, size, NOTHING)
    assert int((labels == BACKGROUND).sum()) == 5 * 6 * 2


# ---- sampling


def test_balanced_sampling_fills_up_with_negatives_only() -> None:
    positive = torch.arange(100) < 10
    negative = torch.arange(100) >= 60
    chosen, rest = sample_balanced(positive, negative, 32, 0.25)
    assert (len(chosen), len(rest)) == (8, 24)
    chosen, rest = sample_balanced(positive, negative, 64, 0.5)
    assert (len(chosen), len(rest)) == (10, 40)  # all there are
    assert positive[chosen].all()
    assert negative[rest].all()
    assert len(set(chosen.tolist())) == 10


def test_balanced_sampling_follows_the_seed_and_reaches_every_row() -> None:
    positive, negative = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    draws = []
    for seed in (1, 1, *range(2, 30)):
        torch.manual_seed(seed)
        draws.append(sample_balanced(positive, negative, 4, 0.5)[1].tolist())
    assert draws[0] == draws[1]
    assert {index for draw in draws for index in draw} == set(range(20))


def test_sampled_rois_hold_the_truth_and_its_targets() -> None:
    target = two_objects()
    near = target.boxes + torch.tensor([1.0, 0.0, 1.0, 0.0])
    far = torch.tensor([[60.0, 60.0, 80.0, 80.0]]).repeat(40, 1)
    proposals = Proposals(torch.cat((near, far)), torch.linspace(1, 0, 42))
    (samples,) = sample_rois([proposals], [target], config(roi_batch=16, roi_positive_fraction=0.25))
    objects = samples.labels > 0
    assert (int(objects.sum()), len(samples.labels)) == (4, 16)  # both near ones and both annotated ones
    assert sorted(samples.labels[objects].tolist()) == [1, 1, 2, 2]
    truth = {2: target.boxes[0], 1: target.boxes[1]}
    moved = decode(samples.targets[objects], samples.boxes[objects], config().box_weights)
    for box, label in zip(moved, samples.labels[objects].tolist(), strict=True):
        torch.testing.assert_close(box, truth[label], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("proposals", "target", "expected"),
    [
        (Proposals(NO_BOXES, torch.zeros(0)), NOTHING, (0, 0)),
        (Proposals(NO_BOXES, torch.zeros(0)), two_objects(), (2, 2)),
        (Proposals(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.ones(1)), NOTHING, (1, 0)),
    ],
)
def test_sampling_with_nothing_there(proposals: Proposals, target: Target, expected: tuple[int, int]) -> None:
    (samples,) = sample_rois([proposals], [target], config())
    assert (len(samples.boxes), int((samples.labels > 0).sum())) == expected


# ---- box head


def head_case(counts: tuple[int, ...]) -> tuple[Tensor, Tensor, list[RoiSamples]]:
    torch.manual_seed(2)
    samples = [RoiSamples(torch.rand(n, 4), torch.arange(n) % 3, torch.randn(n, 4)) for n in counts]
    total = sum(counts)
    return torch.randn(total, 3), torch.randn(total, 12), samples


def test_head_losses_are_means_over_rois_then_images() -> None:
    logits, deltas, samples = head_case((3, 7))
    expected_class = expected_box = 0.0
    row = 0
    for sample in samples:
        for label, wanted in zip(sample.labels.tolist(), sample.targets, strict=True):
            share = 1 / len(sample.labels) / len(samples)
            expected_class -= share * float(logits[row].log_softmax(0)[label])
            if label:
                own = deltas[row, 4 * label : 4 * label + 4]
                expected_box += share * float(F.smooth_l1_loss(own, wanted, reduction="sum"))
            row += 1
    losses = head_losses(logits, deltas, samples)
    assert float(losses["class"]) == pytest.approx(expected_class, rel=1e-5)
    assert float(losses["box"]) == pytest.approx(expected_box, rel=1e-5)


def test_head_losses_without_rois_are_zero_and_differentiable() -> None:
    logits, deltas, samples = head_case((0, 0))
    losses = head_losses(logits.requires_grad_(), deltas.requires_grad_(), samples)
    assert [float(v) for v in losses.values()] == [0, 0]
    (losses["class"] + losses["box"]).backward()


def test_selected_detections_equal_a_plain_loop() -> None:
    torch.manual_seed(5)
    settings = config(score_threshold=0.2, nms_threshold=0.4, max_detections=12)
    corner = torch.rand(40, 2) * 60
    proposals = torch.cat((corner, corner + 5 + torch.rand(40, 2) * 30), dim=1)
    logits, deltas = torch.randn(40, 4) * 1.5, torch.randn(40, 16) * 0.5
    found: list[tuple[float, int, int, list[float]]] = []
    for label in (1, 2, 3):
        scores = logits.softmax(1)[:, label]
        rows = [i for i in scores.argsort(descending=True).tolist() if scores[i] > 0.2]
        kept: list[tuple[float, int, int, list[float]]] = []
        for i in rows:
            own = deltas[i : i + 1, 4 * label : 4 * label + 4]
            box = decode(own, proposals[i : i + 1], settings.box_weights)
            box[:, 0::2].clamp_(0, 79)
            box[:, 1::2].clamp_(0, 69)
            if all(float(pairwise_iou(box, torch.tensor([k[3]]))) <= 0.4 for k in kept):
                kept.append((float(scores[i]), label, i, box[0].tolist()))
        found += kept
    found = sorted(found, reverse=True)[:12]
    selected = select_detections(logits, deltas, proposals, (70, 80), settings)
    assert selected.labels.tolist() == [f[1] for f in found]
    assert selected.proposal.tolist() == [f[2] for f in found]
    torch.testing.assert_close(selected.scores, torch.tensor([f[0] for f in found]))
    torch.testing.assert_close(selected.boxes, torch.tensor([f[3] for f in found]))


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_is_selected_from_nothing_or_below_the_threshold(count: int) -> None:
    boxes = torch.rand(count, 4)
    logits = torch.tensor([[20.0, 0.0, 0.0]]).repeat(count, 1)
    selected = select_detections(logits, torch.zeros(count, 12), boxes, (9, 9), config())
    assert (selected.boxes.shape, selected.labels.shape) == ((0, 4), (0,))
