"""Semi-DFF: its losses, what learns from them, where the teacher comes from, and that no label is looked at."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Truth
from vodbench.training.fingerprints import plan_stages
from vodbench.training.loop import StageTrainer
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.pipeline import plan_of
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_methods.detection.rpn import RpnOutput
from vodbench_methods.flow import FlowOutput
from vodbench_methods.semidff import losses
from vodbench_methods.semidff.config import SemiDFFConfig
from vodbench_methods.semidff.model import SemiDFF

CLASSES = 3
SHRUNK = {
    "short_side": 64,
    "max_side": 96,
    "proposals": 12,
    "candidates": 60,
    "train_proposals": 12,
    "train_candidates": 60,
    "fc_channels": 32,
    "key_frame_range": 3,
    "batch_size": 2,
}
SPEC = method_spec("semi-dff")


def configured(**changes: Any) -> SemiDFFConfig:
    known = SemiDFFConfig.knobs()
    wanted = {**SPEC.presets["tiny"], **SHRUNK, **changes}
    return SemiDFFConfig.from_mapping({name: value for name, value in wanted.items() if name in known})


def built(config: SemiDFFConfig, seed: int = 0) -> SemiDFF:
    """Untrained, with weights that answer something."""
    torch.manual_seed(seed)
    method = SPEC.build(config, CLASSES)
    assert isinstance(method, SemiDFF)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


def begun(stage: int = -1, **changes: Any) -> SemiDFF:
    """At the beginning of one of its stages."""
    config = configured(**changes)
    method = built(config)
    method.begin_stage(SPEC.stages(config)[stage])
    return method


def truth(rng: np.random.Generator, count: int) -> Truth:
    corners = rng.uniform(0, 30, (count, 2))
    flags = np.zeros(count, np.bool_)
    boxes = np.concatenate((corners, corners + 20), axis=1).astype(np.float32)
    return Truth(boxes, rng.integers(1, CLASSES + 1, count), np.arange(count), flags, flags)


def clip(offsets: Sequence[int] = (-2,), *, number: int = 0, boxes: int = 2, labels: int = 0) -> Clip:
    """Frame 5 of a picture that moves, and frames at ``offsets`` from it."""
    picture = np.random.default_rng(number).integers(0, 255, (56, 112, 3), dtype=np.uint8)
    marks = np.random.default_rng([labels, number])

    def frame(index: int) -> ClipFrame:
        shown = np.ascontiguousarray(picture[:, 2 * index : 2 * index + 72])
        return ClipFrame(index, shown, truth(marks, boxes))

    return Clip(number, "s", frame(5), tuple(frame(5 + offset) for offset in offsets), flip=bool(number % 2))


def values(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in found.items()}


def total(found: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(found.values())).sum()


# ---- losses against formulas


def test_regression_is_the_mean_over_each_images_own_cells() -> None:
    predicted, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    sizes = ((16, 20), (9, 12))  # at stride 4: 4 x 5 cells, and 3 x 3
    inside = losses.cells_inside(sizes, (4, 5), 4, predicted.device)
    assert inside[0].all()
    assert inside[1].nonzero().tolist() == [[i, j] for i in range(3) for j in range(3)]
    difference = (predicted - target).numpy()
    squares = [float((part**2).mean()) for part in (difference[0], difference[1, :, :3, :3])]
    absolutes = [float(np.abs(part).mean()) for part in (difference[0], difference[1, :, :3, :3])]
    assert float(losses.feature_regression(predicted, target, inside)) == pytest.approx(np.mean(squares), rel=1e-5)
    assert float(losses.feature_regression(predicted, target, inside, absolute=True)) == pytest.approx(
        np.mean(absolutes), rel=1e-5
    )


def test_the_steady_target_carries_the_last_change_on() -> None:
    start, change = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)

    def at(times: list[int]) -> Tensor:
        return start + torch.tensor(times).view(-1, 1, 1, 1) * change

    first, second, now = [2, 5, 4], [5, 1, 4], [6, 9, 8]  # in order, in reverse, and twice the same frame
    target = losses.steady_target(
        (at(first), at(second)), (torch.tensor(first), torch.tensor(second)), torch.tensor(now)
    )
    torch.testing.assert_close(target, at([6, 9, 4]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_cross_entropy_is_what_hinton_wrote(temperature: float) -> None:
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64)
    p, q = (np.exp(logits.detach().numpy() / temperature) for logits in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    cross_entropy, entropy = -(p * np.log(q)).sum(1), -(p * np.log(p)).sum(1)
    found = losses.soft_cross_entropy(student, teacher, temperature)
    np.testing.assert_allclose(found.detach(), temperature**2 * (cross_entropy - entropy), rtol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    np.testing.assert_allclose(gradient, temperature * (q - p), rtol=1e-9, atol=1e-12)


def test_soft_cross_entropy_tends_to_a_distance_of_logits() -> None:
    student, teacher = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    limit = losses.soft_cross_entropy(student, teacher, math.inf)
    centred = (student - teacher) - (student - teacher).mean(1, keepdim=True)
    torch.testing.assert_close(limit, centred.square().sum(1) / (2 * 5))
    errors = [(losses.soft_cross_entropy(student, teacher, t) - limit).abs().max().item() for t in (1e2, 1e3, 1e4)]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5  # the error falls as 1 / T
    assert errors[2] < errors[1] / 5
    torch.testing.assert_close(losses.soft_cross_entropy(student + 7, teacher, math.inf), limit)


def rpn_output(seed: int, anchors_a_cell: int = 3) -> RpnOutput:
    generator = torch.Generator().manual_seed(seed)
    count = 4 * 5 * anchors_a_cell
    logits, deltas = torch.randn(2, count, generator=generator), torch.randn(2, count, 4, generator=generator)
    return RpnOutput(logits, deltas, torch.zeros(count, 4), (4, 5))


def test_attention_and_anchor_boxes_are_means_over_the_anchors_inside() -> None:
    student, teacher = rpn_output(0), rpn_output(1)
    inside = losses.cells_inside(((16, 20), (9, 12)), (4, 5), 4, student.logits.device)
    attention, boxes = [], []
    for image in range(2):
        divergences, squares = [], []
        for row, column in inside[image].nonzero().tolist():
            for anchor in range(3):
                place = (row * 5 + column) * 3 + anchor
                p, q = (1 / (1 + math.exp(-float(o.logits[image, place]) / 2)) for o in (teacher, student))
                divergences.append(4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))))
                dx, dy, dw, dh = (student.deltas - teacher.deltas)[image, place].tolist()
                squares.append(((dx / 0.1) ** 2 + (dy / 0.1) ** 2 + (dw / 0.4) ** 2 + (dh / 0.4) ** 2) / 4)
        attention.append(np.mean(divergences))
        boxes.append(np.mean(squares))
    found = losses.attention_loss(student, teacher, inside, 2.0)
    assert float(found) == pytest.approx(np.mean(attention), rel=1e-4)
    assert float(losses.anchor_box_loss(student, teacher, inside)) == pytest.approx(np.mean(boxes), rel=1e-5)


@pytest.mark.parametrize("counts", [[2, 3], [0, 5], [5, 0], [0, 0]])
def test_terms_of_proposals_are_means_of_images(counts: list[int]) -> None:
    count = sum(counts)
    student, teacher = torch.randn(count, 4, requires_grad=True), torch.randn(count, 4)
    rows = losses.soft_cross_entropy(student, teacher, 1.0).detach().split(counts)
    squares = (student - teacher).detach().square().mean(1).split(counts)
    classes, boxes = (
        losses.inter_class_loss(student, teacher, counts, 1.0),
        losses.proposal_box_loss(student, teacher, counts),
    )
    for found, parts in ((classes, rows), (boxes, squares)):
        expected = np.mean([float(part.mean()) if len(part) else 0.0 for part in parts])
        assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
        assert found.requires_grad


# ---- the losses of a batch


@pytest.mark.parametrize("detector", ["r-fcn", "faster-rcnn"])
@pytest.mark.parametrize("schedule", ["sem", "joint"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(detector: str, schedule: str) -> None:
    """A frame that is its own key frame, at the start: the same weights look at the same map."""
    method = begun(detector=detector, second_stage=schedule)
    if schedule == "joint":  # the regression compares with a warp, which has to be the identity first
        with torch.no_grad():
            for name, parameter in method.flow.heads.named_parameters():
                if name.startswith(("flow", "scale")):
                    parameter.zero_()
    same, other = values(method.losses([clip((0,))])), values(method.losses([clip((-3,))]))
    assert all(abs(same[name]) < 1e-6 for name in same)  # a sum of float32 probabilities, rounded
    assert all(other[name] > 1e-3 for name in other)


def test_only_the_terms_that_are_switched_on_are_there() -> None:
    every = values(begun(second_stage="sem").losses([clip()]))
    assert list(every) == ["inter_class", "attention", "bbox"]
    for terms in ({"attention": False}, {"inter_class": False, "bbox": False}):
        found = values(begun(second_stage="sem", **terms).losses([clip()]))
        assert found == {name: value for name, value in every.items() if terms.get(name, True)}
    heavy = values(begun(second_stage="sem", box_weight=3.0).losses([clip()]))
    assert heavy["bbox"] == pytest.approx(3 * every["bbox"], rel=1e-6)


def test_joint_training_adds_both_losses_up() -> None:
    clips = [clip((-2,)), clip((-1,), number=1)]
    joint = values(begun(second_stage="joint").losses(clips))
    regression = values(begun(second_stage="reg").losses(clips))
    semantics = values(begun(second_stage="sem").losses(clips))
    assert joint == pytest.approx({**regression, **semantics}, rel=1e-6)


def test_the_regression_target_is_the_frames_own_map() -> None:
    method = begun(second_stage="reg", regression_loss="l1")
    pair = clip()
    batch = method.detector.preprocess([pair.reference.image, pair.supports[0].image])
    with torch.no_grad():
        own, key = method.detector.extract(batch).split(1)
        predicted = method.propagate(key, method.flow_between(batch.part(0, 1), batch.part(1, 2)))
    expected = (predicted - own).abs().mean()
    torch.testing.assert_close(method.losses([pair])["regression"].detach(), expected, atol=1e-6, rtol=1e-5)


def test_the_steady_loss_never_looks_at_the_frames_own_features() -> None:
    """Its value follows from two frames before; the frame itself matters through the flow network alone."""
    method = begun(second_stage="reg", regression_loss="steady")
    assert SPEC.stages(method.config)[-1].clips.num_supports == 2
    zero = torch.zeros(1, 2, 16, 21)
    method.flow_between = lambda current, key: FlowOutput(zero, None, None)  # type: ignore[method-assign]
    moving = clip((-3, -1))
    blank = replace(moving, reference=replace(moving.reference, image=np.zeros_like(moving.reference.image)))
    assert values(method.losses([moving])) == values(method.losses([blank]))
    # The key frame is 3 frames before; the change from it to the frame between, half as long again.
    batch = method.detector.preprocess([frame.image for frame in moving.supports])
    zero = zero.new_zeros((1, 2, *method.detector.extract(batch).shape[2:]))
    with torch.no_grad():
        earlier, later = method.detector.extract(batch).split(1)
    expected = (later + 0.5 * (later - earlier) - earlier).square().mean()
    torch.testing.assert_close(method.losses([moving])["regression"], expected, atol=1e-5, rtol=1e-5)


def test_frames_without_proposals_can_be_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    method = begun(second_stage="sem")
    propose = method.teacher.rpn.propose
    monkeypatch.setattr(method.teacher.rpn, "propose", lambda *a, **k: [p.top(0) for p in propose(*a, **k)])
    found = method.losses([clip(), clip(number=1)])
    assert float(found["inter_class"].detach()) == 0
    assert float(found["attention"].detach()) > 0
    total(found).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


# ---- what is trained


FEATURES = {
    "r-fcn": ("detector.backbone.", "detector.reduction."),
    "faster-rcnn": tuple(f"detector.backbone.conv{i}." for i in (1, 2, 3, 4)),
}


@pytest.mark.parametrize("detector", ["r-fcn", "faster-rcnn"])
@pytest.mark.parametrize("trained", ["temporal", "temporal+task", "temporal+spatial"])
def test_gradients_reach_what_is_trained_and_nothing_else(detector: str, trained: str) -> None:
    method = begun(second_stage="sem", trained=trained, detector=detector)
    total(method.losses([clip(), clip((-1,), number=1)])).backward()

    def expected(name: str) -> bool:
        if name.startswith("flow."):
            return True
        features = name.startswith(FEATURES[detector])
        return trained == "temporal+spatial" or (trained == "temporal+task" and not features)

    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert parameter.requires_grad == expected(name), name
        assert reached <= expected(name), name
        if expected(name) and not name.endswith("bias"):
            assert reached, name
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


@pytest.mark.parametrize("prediction", ["flow", "generative"])
def test_the_regression_trains_what_predicts_and_nothing_else(prediction: str) -> None:
    method = begun(second_stage="reg", prediction=prediction, trained="temporal+spatial")
    total(method.losses([clip()])).backward()
    reached = {name for name, p in method.named_parameters() if p.grad is not None}
    expected = {name for name, p in method.named_parameters() if name.startswith(("flow.", "generator."))}
    if prediction == "generative":
        expected -= {name for name in expected if name.startswith("flow.heads.")}
    assert reached == expected


def stepped(method: SemiDFF, clips: Sequence[Clip], steps: int = 3) -> None:
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        total(method.losses(clips)).backward()
        optimizer.step()


@pytest.mark.parametrize("detector", ["r-fcn", "faster-rcnn"])
def test_the_teacher_and_the_statistics_of_batch_norm_stay(detector: str) -> None:
    method = begun(second_stage="joint", trained="temporal+spatial", detector=detector, frozen_batch_norm=False)
    before = {name: value.clone() for name, value in method.detector.state_dict().items()}
    stepped(method, [clip(), clip(number=1)])
    after, taught = method.detector.state_dict(), method.teacher.state_dict()
    assert all(torch.equal(before[name], taught[name]) for name in before)
    running = [name for name in before if "running" in name]
    assert running
    assert all(torch.equal(before[name], after[name]) for name in running)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert not any("teacher" in name for name in method.state_dict())


# ---- generative prediction


def test_generated_features_need_no_flow_and_stream() -> None:
    config = configured(prediction="generative", key_frame_interval=3)
    method = built(config).eval()
    images = [clip((offset,)).supports[0].image for offset in range(-5, 0)]
    batch = method.detector.preprocess(images[:2])
    with torch.no_grad():
        output = method.flow_between(batch.part(1, 2), batch.part(0, 1))
        key_map = method.detector.extract(batch.part(0, 1))
        generated = method.propagate(key_map, output)
    assert generated.shape == key_map.shape
    assert not output.flow.any()
    assert not torch.allclose(generated, key_map)
    stream = method.stream()
    found = [one for image in images for one in stream.push(image)]
    for reference, got in enumerate(found):
        with torch.inference_mode():
            expected = method.detect_in_video(images, reference, config)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)


# ---- stages


def test_schedules_share_what_they_have_in_common() -> None:
    def planned(**changes: Any) -> dict[str, str]:
        return {p.stage.name: p.fingerprint for p in plan_stages("semi-dff", configured(**changes), "d", 0)}

    both, regression, semantics = planned(), planned(second_stage="reg"), planned(second_stage="sem")
    assert list(both) == ["detector", "regression", "semantics"]
    assert list(regression) == ["detector", "regression"]
    assert list(semantics) == ["detector", "semantics"]
    assert list(planned(second_stage="joint")) == ["detector", "joint"]
    assert both["regression"] == regression["regression"]
    assert both["semantics"] != semantics["semantics"]
    hot = planned(temperature=4, attention=False, trained="temporal")
    assert (hot["regression"] == both["regression"], hot["semantics"] == both["semantics"]) == (True, False)
    assert planned(regression_loss="l1")["regression"] != both["regression"]
    stills = planned(training_frames="stills")
    assert stills["detector"] != both["detector"]
    alone = method_spec("r-fcn").config
    shared = {**method_spec("r-fcn").presets["tiny"], **{n: v for n, v in SHRUNK.items() if n in alone.knobs()}}
    (single,) = plan_stages("r-fcn", alone.from_mapping(shared), "d", 0)
    assert single.fingerprint == both["detector"]


def test_stage_two_sees_unlabelled_video_alone() -> None:
    stages = SPEC.stages(configured(training_frames="stills"))
    assert [stage.clips.frames for stage in stages] == ["stills", "unlabelled", "unlabelled"]
    assert [stage.schedule.optimizer for stage in stages] == ["sgd", "rmsprop", "rmsprop"]
    assert [stage.clips.own_frame for stage in stages] == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warm_start": "none"}, "starts from a trained detector"),
        ({"freeze_detector": True}, "'trained' says what of it stays"),
        ({"inter_class": False, "attention": False, "bbox": False}, "has no semantic loss"),
        ({"regression_loss": "steady", "key_frame_range": 1}, "key_frame_range to 2 or more"),
        ({"temperature": 0}, "temperature = 0"),
        ({"temperature": "hot"}, "temperature = 'hot'"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        configured(**changes)


def test_an_infinite_temperature_is_a_word() -> None:
    assert configured(temperature="inf").temperature == "inf"
    found = begun(second_stage="sem", temperature="inf").losses([clip()])
    assert all(value > 0 for value in values(found).values())


# ---- training without labels


def trained_on(clips: Iterable[Clip], start: SemiDFF, steps: int) -> StageTrainer:
    """The last stage as a worker runs it: from ``start``'s weights, the first ``steps`` of its steps."""
    trainer = at_the_start(start)
    trainer.schedule = replace(trainer.schedule, iterations=steps)
    trainer.run(iter(clips))
    return trainer


def at_the_start(start: SemiDFF) -> StageTrainer:
    torch.manual_seed(7)
    method = SPEC.build(start.config, CLASSES)
    method.load_initial(start.state_dict())
    return StageTrainer(method, SPEC.stages(start.config)[-1], index=2, seed=3)


def same_weights(one: StageTrainer, other: StageTrainer) -> bool:
    theirs = other.module.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.module.state_dict().items())


@pytest.mark.parametrize("schedule", ["reg", "sem", "joint"])
def test_scrambled_labels_change_nothing(schedule: str) -> None:
    start = built(configured(second_stage=schedule))
    first, *others = [
        trained_on((clip((-1 - n % 3,), number=n, labels=labels, boxes=boxes) for n in range(6)), start, 3)
        for labels, boxes in ((0, 2), (1, 3), (2, 0))
    ]
    assert not same_weights(first, at_the_start(start))
    assert all(same_weights(first, other) for other in others)


def test_labels_removed_from_the_data_change_nothing(tmp_path: Path) -> None:
    """Clips as the data set gives them, from a tree with its boxes and from one without any."""
    start, results, seen = built(configured()), [], []
    stage = SPEC.stages(start.config)[-1]
    for name in ("with", "without"):
        root = tmp_path / name
        generate(str(root), GeneratorConfig(snippets=2, val_snippets=0, frames=5, size=64), workers=1)
        for file in (root / "Annotations").rglob("*.xml") if name == "without" else ():
            file.write_text(re.sub(r"\t<object>.*</object>\n", "", file.read_text(), flags=re.DOTALL))
        dataset: Any = DataSource(root=str(root)).open()
        read = dataset.read("train", dataset.snippets("train")[0].id)
        seen.append(sum(len(frame.truth.boxes) for frame in read))
        plan = plan_of(dataset, stage.clips, split="train", seed=1)
        block = read_block(dataset, "train", [plan[number] for number in range(8)], labels=False)
        results.append(trained_on(decode_block(block), start, 4))
    assert seen[0] > 0 == seen[1]
    assert same_weights(*results)


@pytest.mark.parametrize("schedule", ["two-step", "joint"])
def test_a_stage_that_was_cut_short_goes_on_bit_by_bit(schedule: str) -> None:
    """A worker that comes back makes its teacher from the weights that the stage began with, not from its own."""
    start = built(configured(second_stage=schedule, trained="temporal+spatial"))
    clips = [clip((-1 - number % 3,), number=number) for number in range(12)]
    whole, cut, again = trained_on(clips, start, 6), trained_on(clips[:4], start, 2), at_the_start(start)
    again.restore(cut.state())
    again.schedule = replace(again.schedule, iterations=6)
    again.run(iter(clips[4:]))
    assert same_weights(whole, again)
    assert not same_weights(whole, cut)
