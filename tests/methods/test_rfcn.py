"""R-FCN: the vote, the two halves, hard examples, and its knobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from vodbench.errors import UserError
from vodbench.spec import Clip, ClipFrame, MethodSpec, Truth
from vodbench_methods.detection import faster_rcnn
from vodbench_methods.detection.box_head import hardest_rois, head_losses
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.config import DetectorConfig, FasterRCNNConfig
from vodbench_methods.detection.records import Proposals, RoiSamples, Target
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.rfcn.config import POOLINGS, TINY, RFCNConfig
from vodbench_methods.rfcn.deformable import DeformableConv2d
from vodbench_methods.rfcn.model import RFCN, SPEC

SMALL = {
    "short_side": 64,
    "max_side": 96,
    "anchor_sizes": (24.0,),
    "roi_size": 3,
    "map_channels": 24,
    "rpn_channels": 0,
}
DEFORMABLE = {"deformable": "dcn", "pooling": "deformable"}
NUM_CLASSES = 3


def detector(**settings: Any) -> RFCN:
    torch.manual_seed(0)
    method = RFCN(RFCNConfig.from_mapping({**TINY, **SMALL, **settings}), NUM_CLASSES)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval()


def picture(seed: int = 0, *, objects: bool = True) -> ClipFrame:
    image = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[8, 10, 34, 38], [42, 20, 70, 48]], np.float32)[: 2 if objects else 0]
    count = len(boxes)
    labels = np.array([1, 3])[:count]
    return ClipFrame(0, image, Truth(boxes, labels, np.arange(count), np.zeros(count, bool), np.zeros(count, bool)))


def clip(frame: ClipFrame) -> Clip:
    return Clip(0, "snippet", frame, (), False)


# ---- the network


def test_paper_settings_are_the_defaults() -> None:
    config = RFCNConfig()
    method = RFCN(config.replace(backbone="resnet50"), 30)
    assert len(config.anchor_sizes) * len(config.anchor_ratios) == method.rpn.cls_logits.out_channels == 9
    assert method.reduction.weight.shape == (1024, 2048, 3, 3)
    assert method.score_maps.weight.shape == (7 * 7 * (31 + 4), 512, 1, 1)
    assert method.rpn.cls_logits.in_channels == 512
    assert (config.proposals, config.roi_batch, config.ohem) == (300, 128, True)
    assert (config.nms_threshold, config.score_threshold) == (0.3, 1e-3)


def test_only_its_own_knobs_are_there() -> None:
    of_the_other_head = set(FasterRCNNConfig.knobs()) - set(DetectorConfig.knobs())
    assert {"fc_channels", "fc_layers"} <= of_the_other_head
    assert not of_the_other_head & set(RFCNConfig.knobs())


@pytest.mark.parametrize("settings", [{}, DEFORMABLE])
def test_features_are_the_two_halves_one_after_the_other(settings: dict[str, Any]) -> None:
    method = detector(**settings)
    batch = method.preprocess([picture(0).image, picture(1).image])
    with torch.no_grad():
        feature_map = method.extract(batch)
        halves = method.maps(feature_map)
        whole = method.features(batch)
    assert feature_map.shape[:2] == (2, method.map_channels)
    assert (feature_map >= 0).all()
    for ours, expected in zip(whole, halves, strict=True):
        assert torch.equal(ours, expected)


def test_each_half_of_the_map_has_its_own_reader() -> None:
    """What changes in the RPN's half changes nothing for the RoIs, and the other way round."""
    method = detector()
    feature_map = torch.rand(1, method.map_channels, 6, 8)
    rpn_map, roi_map = method.maps(feature_map)
    half = method.map_channels // 2
    changed = feature_map.clone()
    changed[:, :half] += 1
    assert torch.equal(method.maps(changed)[1], roi_map)
    assert not torch.equal(method.maps(changed)[0], rpn_map)


def test_a_frame_from_its_own_map_is_the_frame() -> None:
    method = detector()
    image = picture().image
    batch = method.preprocess([image])
    with torch.inference_mode():
        expected = method.encode(image, method.config)
        got = method.frame_from(method.extract(batch), batch, method.config, NullClock())
    assert torch.equal(got.boxes, expected.boxes)
    assert torch.equal(got.features, expected.features)


def test_a_roi_feature_is_the_mean_vote() -> None:
    """Against a bin-by-bin reading with RoIAlign: bin (i, j) sees maps (c, i, j) alone."""
    method = detector()
    maps, boxes = torch.randn(1, 3**2 * (NUM_CLASSES + 5), 16, 20), torch.tensor([[3.0, 5.0, 41.0, 52.0]])
    every = torchvision.ops.roi_align(maps, [boxes], 3, 1 / 4, sampling_ratio=2, aligned=True)[0]  # all maps, all bins
    every = every.view(NUM_CLASSES + 5, 3, 3, 3, 3)
    votes = torch.stack([every[:, i, j, i, j] for i in range(3) for j in range(3)])
    with torch.no_grad():
        torch.testing.assert_close(method.pool(maps, [boxes])[0], votes.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_votes_are_logits_and_one_box_for_all_classes() -> None:
    method = detector()
    row = torch.arange(2.0 * (NUM_CLASSES + 5)).view(2, -1)
    logits, deltas = method.predictor(row)
    assert torch.equal(logits, row[:, : NUM_CLASSES + 1])
    assert deltas.shape == (2, 4 * (NUM_CLASSES + 1))
    for of_class in deltas.view(2, NUM_CLASSES + 1, 4).unbind(dim=1):
        assert torch.equal(of_class, row[:, NUM_CLASSES + 1 :])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_detects_and_learns(pooling: str) -> None:
    method = detector(pooling=pooling)
    (found,) = method.stream().push(picture().image)
    assert len(found.scores)
    method.begin_stage(SPEC.stages(method.config)[0])
    sum(method.losses([clip(picture())]).values(), torch.zeros(())).backward()
    trained = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []


# ---- deformable


def test_without_offsets_deformable_is_plain() -> None:
    """Untrained, the deformable network votes as the same weights do with fixed bins and plain convolutions."""
    settings = {**TINY, **SMALL}
    torch.manual_seed(0)
    deformable = RFCN(RFCNConfig.from_mapping({**settings, **DEFORMABLE}), NUM_CLASSES).eval()
    plain = RFCN(RFCNConfig.from_mapping({**settings, "pooling": "deformable"}), NUM_CLASSES).eval()
    plain.load_state_dict(deformable.state_dict(), strict=False)
    batch = plain.preprocess([picture().image])
    with torch.no_grad():
        torch.testing.assert_close(deformable.extract(batch), plain.extract(batch), atol=1e-5, rtol=1e-5)
        assert not deformable.maps(deformable.extract(batch))[1][:, plain.score_maps.out_channels :].any()


def test_the_box_shares_one_offset_and_each_class_has_its_own() -> None:
    method = detector(pooling="deformable")
    assert method.offset_maps is not None
    assert method.offset_maps.out_channels == 2 * (NUM_CLASSES + 1 + 1) * 9
    boxes = [torch.tensor([[3.0, 5.0, 41.0, 52.0]])]
    maps = torch.randn(1, method.score_maps.out_channels + method.offset_maps.out_channels, 16, 20)

    def changed_by(group: int) -> list[int]:
        """Which of the C + 1 + 4 outputs move with the offsets of one group."""
        moved = maps.clone()
        first = method.score_maps.out_channels + group * 2 * 9
        moved[:, first : first + 2 * 9] += 1
        with torch.no_grad():
            difference = (method.pool(moved, boxes) - method.pool(maps, boxes)).abs()[0]
        return torch.where(difference > 1e-4)[0].tolist()

    assert [changed_by(group) for group in range(4)] == [[0], [1], [2], [3]]
    assert changed_by(4) == [4, 5, 6, 7]


def test_published_backbones_load_below_the_offsets(tmp_path: Path) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    file = tmp_path / "resnet18.pth"
    torch.save(weights, file)
    settings = {"backbone": "resnet18", "weights": str(file), **DEFORMABLE, "frozen_batch_norm": True}
    torch.manual_seed(1)
    method = RFCN(RFCNConfig.from_mapping({**TINY, **SMALL, **settings}), NUM_CLASSES)
    method.begin_stage(SPEC.stages(method.config)[0])
    own = method.backbone.state_dict()
    shared = [name for name in weights if name in own]
    assert len(shared) >= 80
    assert all(torch.equal(own[name], weights[name]) for name in shared)
    offsets = [m for m in method.backbone.modules() if isinstance(m, DeformableConv2d)]
    assert len(offsets) == 4
    assert not any(p.any() for m in offsets for p in m.offsets.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"map_channels": 25}, "map_channels = 25 has no halves"),
        ({"deformable": "dcn", "deformable_groups": 5}, "deformable_groups = 5 .* 32 channels"),
        ({"pooling": "max"}, "one of align, original, deformable"),
        ({"fc_channels": 8}, "fc_channels"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RFCN(RFCNConfig.from_mapping({**TINY, **settings}), NUM_CLASSES)


# ---- hard examples


def random_rois(counts: tuple[int, ...]) -> tuple[Tensor, Tensor, list[RoiSamples]]:
    generator = torch.Generator().manual_seed(0)
    total = sum(counts)
    logits = torch.randn(total, NUM_CLASSES + 1, generator=generator) * 2
    deltas = torch.randn(total, 4, generator=generator).repeat(1, NUM_CLASSES + 1)
    samples = []
    for count in counts:
        labels = torch.randint(0, NUM_CLASSES + 1, (count,), generator=generator)
        samples.append(RoiSamples(torch.rand(count, 4), labels, torch.randn(count, 4, generator=generator)))
    return logits, deltas, samples


def losses_one_by_one(logits: Tensor, deltas: Tensor, samples: RoiSamples) -> list[float]:
    """Of each RoI alone, as ``head_losses`` counts it."""
    rows = [torch.tensor([i]) for i in range(len(samples.labels))]
    each = [head_losses(logits[row], deltas[row], [samples.rows(row)]) for row in rows]
    return [float(loss["class"] + loss["box"]) for loss in each]


@pytest.mark.parametrize("limit", [1, 4, 50])
def test_the_hardest_rois_of_each_image_are_kept(limit: int) -> None:
    counts = (9, 0, 6)
    logits, deltas, samples = random_rois(counts)
    hardest = hardest_rois(logits, deltas, samples, limit)
    first = 0
    for rows, count, own in zip(hardest, counts, samples, strict=True):
        part = slice(first, first + count)
        losses = losses_one_by_one(logits[part], deltas[part], own)
        expected = sorted(range(count), key=lambda i: -losses[i])[:limit]
        assert sorted(rows.tolist()) == sorted(expected)
        first += count


def test_only_hard_rois_are_learnt_from() -> None:
    method = detector(roi_batch=4)
    _, _, samples = random_rois((9, 7))
    features = torch.randn(16, NUM_CLASSES + 5, requires_grad=True)
    losses = method.head_losses(features, samples)
    (losses["class"] + losses["box"]).backward()
    assert features.grad is not None
    assert features.grad[:9].any(dim=1).sum() == features.grad[9:].any(dim=1).sum() == 4
    logits, deltas = method.predictor(features.detach())
    of_all = [losses_one_by_one(logits[a:b], deltas[a:b], s) for a, b, s in ((0, 9, samples[0]), (9, 16, samples[1]))]
    expected = np.mean([np.mean(sorted(image)[-4:]) for image in of_all])
    assert (losses["class"] + losses["box"]).item() == pytest.approx(expected, rel=1e-5)


def test_all_proposals_and_annotated_boxes_are_candidates() -> None:
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 30.0, 50.0, 50.0], [1.0, 0.0, 20.0, 20.0]])
    target = Target(torch.tensor([[0.0, 0.0, 20.0, 22.0]]), torch.tensor([2]))
    proposals = Proposals(boxes, torch.ones(3))
    (samples,) = detector(roi_batch=2).sample_rois([proposals], [target])
    assert torch.equal(samples.boxes, torch.cat((boxes, target.boxes)))
    assert samples.labels.tolist() == [2, 0, 2, 2]
    (sampled,) = detector(ohem=False, roi_batch=2, roi_positive_fraction=0.5).sample_rois([proposals], [target])
    assert sampled.labels.tolist() == [2, 0]


def test_images_without_rois_can_be_learnt_from() -> None:
    method = detector()
    nothing = RoiSamples(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    losses = method.head_losses(torch.zeros(0, NUM_CLASSES + 5, requires_grad=True), [nothing, nothing])
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]


def step_of_a_logit(spec: MethodSpec) -> float:
    """How far one step of gradient descent at rate 1 moves a logit of an object, in a fresh network: |gradient|^2."""
    torch.manual_seed(0)
    method = spec.build(spec.config.from_mapping(spec.presets["small"]), NUM_CLASSES)
    assert isinstance(method, SingleFrameDetector)
    frame = picture()
    batch = method.preprocess([frame.image])
    _, roi_map = method.features(batch)
    (target,) = method.targets([frame], batch)
    logits, _ = method.predictor(method.roi_features(method.pool(roi_map, [target.boxes[:1]])))
    weights = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(logits[0, 1], weights, allow_unused=True)
    return sum(float(g.square().sum()) for g in gradients if g is not None)


def test_votes_of_the_small_preset_move_as_logits_of_faster_rcnn_do() -> None:
    """At a twentieth of their step, real video of a few hundred steps taught the votes next to nothing."""
    assert step_of_a_logit(SPEC) > 0.1 * step_of_a_logit(faster_rcnn.SPEC)


# ---- RPN


def test_rpn_without_a_hidden_layer_is_two_1x1_convolutions() -> None:
    rpn = detector().rpn
    rpn_map = torch.randn(1, 12, 5, 6)
    output = rpn(rpn_map)
    logits = F.conv2d(rpn_map, rpn.cls_logits.weight, rpn.cls_logits.bias)
    torch.testing.assert_close(output.logits, logits.permute(0, 2, 3, 1).flatten(1))
    assert detector(rpn_channels=8).rpn.cls_logits.in_channels == 8
