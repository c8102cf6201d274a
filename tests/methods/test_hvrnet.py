"""HVR-Net against the equations read one proposal at a time, brute-force triplets, and its own laws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench.checkpoints import checkpoint_url, load_checkpoint
from vodbench.cluster import start_ray, stop_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, Detections
from vodbench.training import plan_stages, train
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import write_shards
from vodbench_methods.detection.records import FrameFeatures, Proposals
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.hvrnet.config import HVRConfig
from vodbench_methods.hvrnet.model import HVRNet
from vodbench_methods.hvrnet.non_local import NonLocal
from vodbench_methods.hvrnet.specs import SPEC
from vodbench_methods.hvrnet.training import video_features
from vodbench_methods.hvrnet.triplets import Video, in_reach, mine, relation_loss, video_triplets

METHOD = "hvrnet"
DIM = 32


def some(count: int, seed: int = 0, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def group_of(tiny: Any, first: int = 0, boxes: bool = True) -> list[Clip]:
    """Two categories x two videos."""
    return [
        tiny.clip(tiny.images(3, seed=n), number=n, category=1 + (n - first) // 2, boxes=boxes)
        for n in range(first, first + 4)
    ]


# ---- the module -------------------------------------------------------------------------------------------------


def literal_attention(module: NonLocal, x: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Of one proposal, one source at a time, in float64; zero without sources."""
    if not sources:
        return torch.zeros_like(x)
    query = module.query.weight.double() @ x.double() + module.query.bias.double()
    weights = []
    for source in sources:
        key = module.key.weight.double() @ source.double() + module.key.bias.double()
        weights.append(math.exp(float(query @ key) / math.sqrt(len(x))))
    gathered = sum(w / sum(weights) * source.double() for w, source in zip(weights, sources, strict=True))
    return (module.output.weight.double() @ gathered + module.output.bias.double()).to(x.dtype)


def module_of(dim: int = DIM) -> NonLocal:
    torch.manual_seed(3)
    module = NonLocal(dim)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module


@torch.no_grad()
def test_attention_equals_its_equation() -> None:
    module, x, sources = module_of(), some(5), some(7, seed=1)
    expected = torch.stack([literal_attention(module, row, list(sources)) for row in x])
    torch.testing.assert_close(module.attend(x, module.lend(sources)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_to_some_equals_its_equation_and_to_none_is_zero() -> None:
    module, x, sources = module_of(), some(5), some(7, seed=1)
    allowed = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    allowed[2] = False
    rows = [literal_attention(module, row, list(sources[may])) for row, may in zip(x, allowed, strict=True)]
    got = module.attend(x, module.lend(sources), allowed)
    torch.testing.assert_close(got, torch.stack(rows), atol=1e-5, rtol=1e-5)
    assert not got[2].any()
    assert module.attend(x, module.lend(sources[:0])).eq(0).all()
    assert module.attend(x[:0], module.lend(sources)).shape == (0, DIM)


def test_attention_to_none_has_finite_gradients() -> None:
    module, x = module_of(), some(3).requires_grad_()
    module.attend(x, module.lend(x), torch.zeros(3, 3, dtype=torch.bool)).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())
    assert not x.grad.any()


# ---- triplets of videos -----------------------------------------------------------------------------------------

VIDEOS = [
    Video(group, f"{group}-{place}", 1 + place // 3 if group < 2 else None) for group in range(3) for place in range(9)
]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def test_hard_video_triplets_equal_brute_force() -> None:
    features = some(len(VIDEOS), dim=6)
    for target, (video, got) in enumerate(zip(VIDEOS, video_triplets(features, VIDEOS, hard=True), strict=True)):
        same, other = [], []
        for index, candidate in enumerate(VIDEOS):
            if video.category is None or candidate.group != video.group or index == target:
                continue
            similarity = cosine(features[target], features[index])
            (same if candidate.category == video.category else other).append((similarity, index))
        expected = [target] if video.category is None else [target, min(same)[1], max(other)[1]]
        assert got == expected


def test_random_video_triplets_are_any_of_the_right_category() -> None:
    torch.manual_seed(0)
    seen: set[tuple[int, int]] = set()
    for _ in range(200):
        target, positive, negative = video_triplets(some(27, dim=6), VIDEOS, hard=False)[4]
        assert target == 4
        seen.add((positive, negative))
    assert {positive for positive, _ in seen} == {3, 5}
    assert {negative for _, negative in seen} == {0, 1, 2, 6, 7, 8}


def test_a_video_is_no_negative_of_itself_and_may_have_one_partner_alone() -> None:
    videos = [Video(0, "a", 1), Video(0, "a", 2), Video(0, "b", 1), Video(1, "c", 1)]
    assert video_triplets(some(4), videos, hard=True) == [[0, 2], [1, 2], [2, 0, 1], [3]]


# ---- triplets of proposals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("background_negatives", [False, True])
def test_proposal_triplets_equal_brute_force(background_negatives: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    video = torch.arange(4).repeat_interleave(6)
    labels = torch.randint(0, 4, (24,), generator=generator)
    features = some(24)
    triplets = [[0, 1, 2], [1, 3], [2], [3, 0, 1]]
    mined = mine(features, labels, in_reach(video, triplets), background_negatives=background_negatives)
    for i in range(24):
        of_target = triplets[int(video[i])]
        reach = [j for j in range(24) if int(video[j]) in of_target and len(of_target) > 1]
        same = [(cosine(features[i], features[j]), j) for j in reach if labels[j] == labels[i] and j != i]
        other = [
            (cosine(features[i], features[j]), j)
            for j in reach
            if labels[j] != labels[i] and (labels[j] > 0 or background_negatives)
        ]
        if labels[i] == 0:  # no anchor; it looks at the two objects most like it
            assert not mined.has_positive[i]
            assert not mined.has_negative[i]
            nearest = sorted((s for s in other if labels[s[1]] > 0), reverse=True)[:2]
            assert set(torch.where(mined.sources[i])[0].tolist()) == {j for _, j in nearest}
            continue
        assert bool(mined.has_positive[i]) == bool(same)
        assert bool(mined.has_negative[i]) == bool(other)
        sources = set()
        if same:
            assert int(mined.positive[i]) == min(same)[1]
            sources.add(min(same)[1])
        if other:
            assert int(mined.negative[i]) == max(other)[1]
            sources.add(max(other)[1])
        assert set(torch.where(mined.sources[i])[0].tolist()) == sources


@pytest.mark.parametrize("literal", [False, True])
def test_the_relation_loss_equals_its_equation(literal: bool) -> None:
    video = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    labels = torch.tensor([1, 2, 0, 1, 2, 2, 0])
    features = some(7) * 3
    mined = mine(features, labels, in_reach(video, [[0, 1], [1, 0], [2]]), background_negatives=False)
    means = []
    for target in range(3):
        hinges = []
        for i in range(7):
            if video[i] == target and mined.has_positive[i] and mined.has_negative[i]:
                near = float((features[i] - features[mined.positive[i]]).norm())
                far = float((features[i] - features[mined.negative[i]]).norm())
                hinges.append(max((far - near if literal else near - far) + 2.5, 0.0))
        means.append(sum(hinges) / len(hinges) if hinges else 0.0)
    got = relation_loss(features, mined, video, 3, margin=2.5, literal=literal)
    assert float(got) == pytest.approx(sum(means) / 3, rel=1e-5)
    assert sum(means) > 0


@pytest.mark.parametrize(("literal", "sign"), [(False, 1), (True, -1)])
def test_the_loss_pulls_a_category_together_and_its_printed_form_apart(literal: bool, sign: int) -> None:
    video, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    features = some(4).requires_grad_()
    reach = in_reach(video, [[0, 1], [1, 0]])

    def gap(at: Tensor) -> float:
        mined = mine(at, labels, reach, background_negatives=False)
        near = (at - at[mined.positive]).norm(dim=1)
        return float(((at - at[mined.negative]).norm(dim=1) - near).mean())

    mined = mine(features, labels, reach, background_negatives=False)
    relation_loss(features, mined, video, 2, margin=10.0, literal=literal).backward()
    assert features.grad is not None
    with torch.no_grad():
        assert sign * (gap(features - 0.01 * features.grad) - gap(features)) > 0


def test_equal_proposals_and_no_anchors_have_finite_gradients() -> None:
    features = torch.ones(4, DIM, requires_grad=True)
    video, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
    for of_labels in (labels, torch.zeros_like(labels)):
        mined = mine(features, of_labels, in_reach(video, [[0, 1], [1, 0]]), background_negatives=False)
        loss = relation_loss(features, mined, video, 2, margin=1.0, literal=False)
        loss.backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()
    assert float(loss.detach()) == 0.0
    nothing = mine(features[:0], labels[:0], in_reach(labels[:0], []), background_negatives=False)
    assert float(relation_loss(features[:0], nothing, labels[:0], 0, margin=1.0, literal=False)) == 0.0


# ---- the way through the modules --------------------------------------------------------------------------------


def linear(layer: Any, rows: Sequence[Tensor]) -> list[Tensor]:
    return [layer.weight @ row + layer.bias for row in rows]


def literal_supports(method: HVRNet, supports: Sequence[Tensor]) -> tuple[list[list[Tensor]], list[Tensor]]:
    """(what each module is shown of the supports, the supports after all of them)."""
    shown: list[list[Tensor]] = []
    rows, last = list(supports), len(method.intra) - 1
    for index, module in enumerate(method.intra):
        if index:
            rows = linear(method.fcs[index], rows)
        shown.append(literal_shown(method, index, rows, supports, last))
        rows = [F.relu(row + literal_attention(module, row, shown[-1])) for row in rows]  # type: ignore[arg-type]
    return shown, rows if len(method.intra) else [F.relu(row) for row in rows]


def literal_shown(method: HVRNet, index: int, rows: list[Tensor], initial: Sequence[Tensor], last: int) -> list[Tensor]:
    if index != last or index == 0 or method.config.skip == "transformed":
        return list(rows)
    past = linear(method.fcs[index], [F.relu(row) for row in initial])
    return past if method.config.skip == "initial" else rows + past


def literal_features(method: HVRNet, frame: Tensor, supports: Sequence[Tensor], own: int, test_inter: str) -> Tensor:
    """The module docstring's equations for every proposal of a frame, one at a time."""
    shown, enhanced = literal_supports(method, supports)
    rows = list(frame)
    last = len(method.intra) - 1
    for index, module in enumerate(method.intra):
        if index:
            rows = linear(method.fcs[index], rows)
        sources = shown[index] + literal_shown(method, index, rows[:own], list(frame[:own]), last)
        rows = [F.relu(row + literal_attention(module, row, sources)) for row in rows]  # type: ignore[arg-type]
    if not len(method.intra):
        rows = [F.relu(row) for row in rows]
    seen, others = list(rows), list(enhanced)
    for layer, module in zip(method.inter_fcs, method.inter, strict=True):
        rows, others = linear(layer, rows), linear(layer, others)
        every = rows[:own] + others
        after = []
        for place, row in enumerate(rows):
            sources = [] if test_inter == "off" else every
            if test_inter == "nearest":
                candidates = seen[:own] + list(enhanced)
                ranked = sorted((-cosine(seen[place], c), j) for j, c in enumerate(candidates) if j != place)
                sources = [every[j] for _, j in ranked[:2]]
            after.append(F.relu(row + literal_attention(module, row, sources)))  # type: ignore[arg-type]
        others = [F.relu(row + literal_attention(module, row, every)) for row in others]  # type: ignore[arg-type]
        rows = after
    return torch.stack(rows) if rows else frame


@pytest.mark.parametrize("skip", ["both", "transformed", "initial"])
@pytest.mark.parametrize(("intra", "inter"), [(0, 0), (0, 1), (1, 0), (2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("test_inter", ["dense", "nearest", "off"])
@torch.no_grad()
def test_related_features_equal_the_equations(tiny: Any, skip: str, intra: int, inter: int, test_inter: str) -> None:
    method = tiny.method(skip=skip, intra_modules=intra, inter_modules=inter, test_inter=test_inter)
    config = method.config
    for numbers in ([7, 5, 3], [7, 0, 4], [6], [0, 3]):
        frame, *others = tiny.frames(numbers)
        supports = [method.support(other.top(config.K)) for other in others]
        got = method.relate(frame, method.gather(supports), config)
        rows = [row for support in supports for row in support]
        expected = literal_features(method, frame.features, rows, config.K, test_inter)
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_in_training_an_object_attends_to_its_two_mined_proposals(tiny: Any) -> None:
    """Eq. 4 for anchors: ReLU(z + b(z, {P+, P-})), with z = fc(y)."""
    method = tiny.method()
    features = F.relu(some(12))
    labels = torch.tensor([1, 2, 0] * 4)
    mined = mine(
        features,
        labels,
        in_reach(torch.arange(4).repeat_interleave(3), [[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1]]),
        background_negatives=False,
    )
    got = method.relate_between(features, slice(None), features[:0], mined.sources)
    z = linear(method.inter_fcs[0], list(features))
    for i in torch.where(labels > 0)[0].tolist():
        sources = [z[int(mined.positive[i])], z[int(mined.negative[i])]]
        expected = F.relu(z[i] + literal_attention(method.inter[0], z[i], sources))  # type: ignore[arg-type]
        torch.testing.assert_close(got[i], expected, atol=1e-4, rtol=1e-4)


# ---- streams ----------------------------------------------------------------------------------------------------


def replay(method: HVRNet, frames: Sequence[FrameFeatures], config: HVRConfig) -> list[Detections]:
    stream: Any = method.stream(config)
    return [d for frame in frames for d in stream.push_encoded(frame)] + stream.close()


def assert_same(got: Detections, expected: Detections) -> None:
    assert len(got.boxes) == len(expected.boxes)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-3, rtol=0)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4, rtol=0)
    np.testing.assert_array_equal(got.labels, expected.labels)


@pytest.mark.parametrize("test_inter", ["dense", "off"])
@pytest.mark.parametrize("test_supports", ["video", "window"])
@pytest.mark.parametrize("numbers", [[4, 2, 0, 6, 1, 0, 3], [4, 0], [3], [0, 0]])
def test_stream_equals_the_equations(tiny: Any, test_inter: str, test_supports: str, numbers: list[int]) -> None:
    """Frames without proposals, and videos shorter than the window, included."""
    method = tiny.method(test_inter=test_inter, test_supports=test_supports)
    config = method.config
    frames = tiny.frames(numbers)
    count = len(frames)
    spread = sorted({round(i * (count - 1) / 2 + 1e-9) for i in range(3)}) if count > 3 else range(count)
    for reference, got in enumerate(replay(method, frames, config)):
        window = [i for i in range(reference - 1, reference + 3) if 0 <= i < count and i != reference]
        chosen = window if test_supports == "window" else spread
        rows = [row for i in chosen for row in frames[i].features[: config.K]]
        frame = frames[reference].top(config.proposals)
        with torch.inference_mode():
            features = literal_features(method, frame.features, rows, config.K, test_inter)
            assert_same(got, method.detections(frame, features, config))


def test_the_supports_of_a_video_are_transformed_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny.method()
    config = method.config
    gathered: list[int] = []
    gather = method.gather
    monkeypatch.setattr(method, "gather", lambda supports: gathered.append(len(supports)) or gather(supports))
    assert len(replay(method, tiny.frames([4] * 9), config)) == 9
    assert gathered == [3]


# ---- training ---------------------------------------------------------------------------------------------------


def test_training_and_streaming_share_one_forward_pass(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip without a group: the features that training scores are those a stream scores without the inter module."""
    method = tiny.method(K_train=3, K=3, test_frames=2, test_supports="window", test_inter="off")
    config = method.config
    frames = tiny.images(3)
    with torch.no_grad():
        streamed = [method.encode(image, config) for image in frames]
        pool = method.gather([method.support(streamed[i].top(3)) for i in (0, 2)])
        expected = method.relate(streamed[1], pool, config)
        same = [Proposals(streamed[i].boxes, streamed[i].objectness) for i in (1, 0, 2)]
        monkeypatch.setattr(method, "propose_for_training", lambda output, sizes: same)
        labelled = [_Labelled(same[0].boxes, torch.ones(len(same[0].boxes), dtype=torch.int64))]
        monkeypatch.setattr(method, "sample_rois", lambda proposals, targets: labelled)
        monkeypatch.setattr(method, "losses_of", lambda seen, features: {"features": features})
        trained = method.losses([tiny.clip([frames[i] for i in (1, 0, 2)])])
    torch.testing.assert_close(trained["features"], expected, atol=1e-4, rtol=1e-3)
    assert float(trained["relation"]) == 0.0


class _Labelled:
    def __init__(self, boxes: Tensor, labels: Tensor) -> None:
        self.boxes, self.labels = boxes, labels


@pytest.mark.parametrize("attention", ["mined", "dense"])
@pytest.mark.parametrize("loss", ["distance", "literal", "off"])
@pytest.mark.parametrize("triplets", ["hard", "random"])
def test_every_option_trains(tiny: Any, attention: str, loss: str, triplets: str) -> None:
    method = tiny.method(inter_attention=attention, relation_loss=loss, video_triplets=triplets)
    method.begin_stage(SPEC.stages(method.config)[-1])
    losses = method.losses(group_of(tiny))
    assert set(losses) == {"class", "box"} | ({"relation"} if loss != "off" else set())
    torch.stack(list(losses.values())).sum().backward()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert method.inter[0].output.weight.grad.any()  # type: ignore[union-attr]


def test_without_inter_modules_clips_do_not_meet(tiny: Any) -> None:
    method = tiny.method(inter_modules=0, rpn_batch=10**6, roi_batch=10**5, frozen_batch_norm=True)
    together = method.losses(group_of(tiny))
    assert set(together) == {"class", "box", "rpn_objectness", "rpn_box"}
    alone = [method.losses([clip]) for clip in group_of(tiny)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([a[name] for a in alone]).mean(), atol=1e-5, rtol=1e-4)


def test_with_them_clips_of_a_group_do_and_groups_do_not(tiny: Any) -> None:
    method = tiny.method(rpn_batch=10**6, roi_batch=10**5, frozen_batch_norm=True)
    group = method.losses(group_of(tiny))
    alone = [method.losses([clip]) for clip in group_of(tiny)]
    assert abs(float(group["class"]) - float(torch.stack([a["class"] for a in alone]).mean())) > 1e-4
    assert float(group["relation"]) > 0
    assert all(float(a["relation"]) == 0 for a in alone)
    both = method.losses(group_of(tiny) + group_of(tiny, 4))
    second = method.losses(group_of(tiny, 4))
    for name, loss in both.items():
        torch.testing.assert_close(loss, (group[name] + second[name]) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kept", [[0], [0, 1], [0, 2], [0, 1, 2], [3]])
@pytest.mark.parametrize("boxes", [True, False])
def test_incomplete_groups_and_frames_without_objects_train(tiny: Any, kept: list[int], boxes: bool) -> None:
    method = tiny.method()
    losses = method.losses([group_of(tiny, boxes=boxes)[i] for i in kept])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_video_features_are_means_over_what_is_no_padding(tiny: Any) -> None:
    method = tiny.method()
    clips = [tiny.clip(tiny.images(3, seed=n, width=width), number=n, category=1) for n, width in enumerate((40, 64))]
    with torch.no_grad():
        seen = method.look_at(clips)
        got = video_features(method, seen)
    stride = method.config.feature_stride
    for clip in range(2):
        frames = [i for i, owner in enumerate(seen.owner) if owner == clip]
        means = []
        for i in frames:
            height, width = seen.batch.sizes[i]
            means.append(seen.c4[i, :, : math.ceil(height / stride), : math.ceil(width / stride)].mean(dim=(1, 2)))
        assert len(frames) == 3
        torch.testing.assert_close(got[clip], torch.stack(means).mean(dim=0))
    assert seen.batch.sizes[0] != seen.batch.sizes[1], "nothing was padded"


def test_a_frozen_detector_does_not_move(tiny: Any) -> None:
    method = HVRNet(tiny.config(), 3)
    method.begin_stage(SPEC.stages(method.config)[-1])
    method.train()
    before = {n: t.clone() for n, t in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses(group_of(tiny)).values())).sum().backward()
    optimizer.step()
    moved = {n.split(".")[0] for n, t in method.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {"fcs", "intra", "inter_fcs", "inter", "predictor"}


@pytest.mark.parametrize("freeze_conv4", [True, False])
def test_conv5_learns_on_a_frozen_conv4(tiny: Any, freeze_conv4: bool) -> None:
    method = HVRNet(tiny.config(freeze_detector=False, freeze_conv4=freeze_conv4), 3)
    method.begin_stage(SPEC.stages(method.config)[-1])
    method.train()
    before = {n: t.clone() for n, t in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = method.losses(group_of(tiny))
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    moved = {".".join(n.split(".")[:2]) for n, t in method.state_dict().items() if not torch.equal(t, before[n])}
    early = {"backbone.conv1", "backbone.conv2", "backbone.conv3", "backbone.conv4", "rpn.conv"}
    assert moved >= {"backbone.conv5", "fcs.0"}
    assert moved & early == (set() if freeze_conv4 else early)
    assert ("rpn_box" in losses) == (not freeze_conv4)


# ---- stages and knobs -------------------------------------------------------------------------------------------


def test_the_papers_batches_are_groups_of_nine_videos() -> None:
    detector, own = plan_stages("hvrnet", HVRConfig(), "d", 0)
    assert (detector.stage.method, own.stage.method) == ("faster-rcnn", "hvrnet")
    clips = own.stage.clips
    assert (clips.categories, clips.videos, clips.num_supports, clips.whole_snippet) == (3, 3, 2, True)
    assert own.stage.schedule.batch_size == 9
    twice = SPEC.stages(HVRConfig(groups=2, categories=2, videos=4))[-1]
    assert twice.schedule.batch_size == 16


def test_the_detector_is_that_of_the_other_methods(tiny: Any) -> None:
    ours = plan_stages("hvrnet", tiny.config(test_frames=9, gamma=3.0), "d", 0)[0]
    alone = method_spec("faster-rcnn")
    (theirs,) = plan_stages("faster-rcnn", narrowed(tiny.config(), alone.config), "d", 0)
    assert ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_frames": 0}, r"test_frames = 0 .*\[1, inf\)"),
        ({"test_inter": "on"}, r"test_inter = 'on' .*off, nearest, dense"),
        ({"intra_modules": -1}, r"intra_modules = -1 .*\[0, inf\)"),
        ({"skip": "none"}, r"skip = 'none' .*both, transformed, initial"),
        ({"categories": 1}, r"categories = 1 and videos = 3 make no triplets.*inter_modules to 0"),
        ({"videos": 1}, r"categories = 3 and videos = 1 make no triplets"),
        ({"videos": 0}, r"videos = 0 .*\[1, inf\)"),
        ({"relation_loss": "cosine"}, r"relation_loss = 'cosine' .*distance, literal, off"),
        ({"warm_start": "none"}, r"freeze_conv4 = True with warm_start = 'none'"),
        ({"margin": -1.0}, r"margin = -1.0 .*\[0, inf\)"),
        ({"gama": 1.0}, r"unknown knob 'gama': did you mean 'gamma'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        HVRConfig.from_mapping(values)
    assert "\n" not in str(error.value)


def test_one_category_trains_without_inter_modules(tiny: Any) -> None:
    method = tiny.method(categories=1, videos=1, inter_modules=0)
    (_, stage) = plan_stages("hvrnet", method.config, "d", 0)
    assert stage.stage.clips.group_size == 1
    losses = method.losses([tiny.clip(tiny.images(3), category=1)])
    assert all(loss.isfinite() for loss in losses.values())


# ---- the whole way ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_ray_left() -> Iterator[None]:
    yield
    stop_ray()


@pytest.mark.slow
@pytest.mark.usefixtures("no_ray_left")
def test_two_workers_train_on_groups_from_shards(tiny: Any, tmp_path: Path) -> None:
    """Three groups a step for two workers: one has two of them, and the other the next time. Through Ray Data."""
    generate(str(tmp_path / "tree"), GeneratorConfig(snippets=10, val_snippets=1, frames=4, size=64), workers=1)
    write_shards(DataSource(root=str(tmp_path / "tree")).open(), str(tmp_path / "shards"))  # type: ignore[arg-type]
    source = DataSource(root=str(tmp_path / "shards"))
    config = tiny.config(short_side=64, iterations=3, batch_size=2, relation_iterations=4, groups=3)
    start_ray(num_cpus=2)
    url = checkpoint_url(str(tmp_path), train("hvrnet", config, source, store=str(tmp_path), workers=2))
    history = json.loads((tmp_path / "checkpoints" / Path(url).parent.name / "training.json").read_text())["history"]
    assert [point["iteration"] for point in history] == [1, 2, 3, 4]
    assert all(math.isfinite(point["relation"]) for point in history)
    assert sum(point["relation"] for point in history) > 0, "no triplet was ever found"
    method: Any = load_checkpoint(url, "hvrnet").build()
    stream = method.stream()
    found = [d for image in tiny.images(3) for d in stream.push(image)] + stream.close()
    assert len(found) == 3
