"""THP: the options of its unified inference, its training, and both against the definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Detections, Image, Truth
from vodbench_methods.flow import FlowOutput
from vodbench_methods.propagation import dff
from vodbench_methods.thp.aggregation import RecursiveAggregation
from vodbench_methods.thp.config import TABLE_1, THPConfig
from vodbench_methods.thp.model import THP
from vodbench_methods.thp.oracle import OracleStream, frame_map

SMALL = {
    "short_side": 64,
    "max_side": 96,
    "proposals": 12,
    "candidates": 60,
    "train_proposals": 12,
    "train_candidates": 60,
    "frozen_batch_norm": True,
    "score_threshold": 0.01,
    "key_frame_interval": 3,
}


def config_of(**changes: Any) -> THPConfig:
    spec = method_spec("thp")
    config = spec.config.from_mapping({**spec.presets["tiny"], **SMALL, **changes})
    assert isinstance(config, THPConfig)
    return config


@torch.inference_mode(mode=False)
def method_of(config: MethodConfig, *, update: float | None = None) -> THP:
    """Every weight matters; ``update`` sets Q to one value everywhere."""
    torch.manual_seed(0)
    method = method_spec("thp").build(config, 3)
    assert isinstance(method, THP)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        head = method.flow.heads.update
        assert head is not None
        assert head.bias is not None
        if update is not None:
            head.weight.zero_()
            head.bias.fill_(update)
    return method.eval()


def video(count: int, height: int = 56, width: int = 72, seed: int = 0) -> list[Image]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 90, (count, height, width, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        image[10:30, 8 + 3 * index : 28 + 3 * index] = (220, 60, 30)
    return list(images)


def streamed(method: THP, images: Sequence[Image], config: THPConfig | None = None) -> list[Detections]:
    stream = method.stream(config)
    return [found for image in images for found in stream.push(image)] + stream.close()


def assert_same(got: Sequence[Detections], wanted: Sequence[Detections], tolerance: float = 0) -> None:
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=20 * tolerance, rtol=0)
        np.testing.assert_allclose(one.scores, other.scores, atol=tolerance, rtol=0)


def differ(a: Sequence[Detections], b: Sequence[Detections]) -> list[bool]:
    return [len(x.scores) != len(y.scores) or not np.allclose(x.scores, y.scores) for x, y in zip(a, b, strict=True)]


def mixed(method: THP, images: Sequence[Image]) -> dict[str, float]:
    """A threshold that about half of the cells are below, and a gamma by which frame 1 becomes a key frame."""
    with torch.inference_mode():
        first, *rest = [method.detector.preprocess([image]) for image in images]
        logits = torch.cat([q for batch in rest if (q := method.flow_between(batch, first).update) is not None])
    threshold = float(logits.median())
    return {"update_threshold": threshold, "gamma": float((logits[0] <= threshold).float().mean()) - 1e-3}


# ---- Table 1


@pytest.mark.parametrize("row", TABLE_1)
def test_every_row_of_table_1_is_its_definition(row: str) -> None:
    method, images = method_of(config_of()), video(7)
    config = config_of(**mixed(method, images)).row(row)
    got = streamed(method, images, config)
    wanted = [method.detect_in_video(images, index, config) for index in range(len(images))]
    assert_same(got, wanted, 1e-5)


def test_rows_of_table_1_differ() -> None:
    method, images = method_of(config_of()), video(7)
    base = config_of(**mixed(method, images))
    found = {row: streamed(method, images, base.row(row)) for row in TABLE_1}
    rows = list(TABLE_1)
    for index, one in enumerate(rows):
        for other in rows[index + 1 :]:
            assert any(differ(found[one], found[other])), f"{one} and {other}"
            assert not differ(found[one], found[other])[0], "the first frame is a key frame of its own always"


def test_per_frame_is_the_detector_alone() -> None:
    method, images = method_of(config_of()), video(4)
    stream = method.detector.stream(method.detector.config.replace(key_frame_interval=1))
    assert_same(
        streamed(method, images, config_of().row("per-frame")), [d for image in images for d in stream.push(image)]
    )


def test_sparse_propagation_is_deep_feature_flow() -> None:
    method, images = method_of(config_of()), video(7)
    known = {name: getattr(method.config, name) for name in dff.SPEC.config.knobs()}
    flow_detector = dff.SPEC.build(dff.SPEC.config.from_mapping(known), 3)
    assert isinstance(flow_detector, nn.Module)
    own = flow_detector.state_dict()
    flow_detector.load_state_dict({name: weight for name, weight in method.state_dict().items() if name in own})
    stream = flow_detector.eval().stream()
    wanted = [d for image in images for d in stream.push(image)]
    assert_same(streamed(method, images, config_of().row("sparse-propagation")), wanted)


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(UserError, match="c2"):
        config_of().row("c22")


# ---- knobs at their ends


def test_gamma_of_one_keeps_the_first_key_frame() -> None:
    method, images = method_of(config_of(), update=-1.0), video(5)  # everything wants to be computed anew
    never = config_of(gamma=1.0)
    assert clocked(method, images, never) == {"backbone": 1, "update": 4}


def test_gamma_of_zero_makes_key_frames_wherever_anything_is_to_be_updated() -> None:
    images = video(5)
    assert clocked(method_of(config_of(), update=-1.0), images, config_of(gamma=0.0)) == {"backbone": 5, "update": 0}
    assert clocked(method_of(config_of(), update=1.0), images, config_of(gamma=0.0)) == {"backbone": 1, "update": 4}


def test_nothing_to_update_is_plain_propagation_of_the_aggregated_map() -> None:
    method, images = method_of(config_of(), update=1.0), video(7)
    assert_same(streamed(method, images, config_of().row("c2")), streamed(method, images, config_of().row("c1")), 1e-6)


def test_everything_updated_is_the_key_frame_it_could_have_been() -> None:
    """Without aggregation, U = 1 everywhere gives each frame's own features."""
    method, images = method_of(config_of(), update=-1.0), video(5)
    updated = config_of(keys="interval", aggregation=False, partial_updating=True)
    assert_same(streamed(method, images, updated), streamed(method, images, config_of().row("per-frame")), 1e-5)


def test_the_threshold_moves_what_is_updated() -> None:
    method, images = method_of(config_of(), update=0.5), video(3)
    base = config_of(gamma=1.0)
    low, high = (streamed(method, images, base.replace(update_threshold=t)) for t in (0.4, 0.6))
    assert differ(low, high) == [False, True, True]


def test_an_interval_longer_than_the_video_and_a_video_of_one_frame() -> None:
    method = method_of(config_of())
    for row in TABLE_1:
        long = config_of(key_frame_interval=100).row(row)
        assert len(streamed(method, video(1), long)) == 1
        assert len(streamed(method, video(3), long)) == 3


@pytest.mark.parametrize("row", ["sparse-propagation", "c1", "c2", "c3"])
def test_another_frame_size_starts_anew(row: str) -> None:
    method, config = method_of(config_of()), config_of().row(row)
    before, after = video(4), video(5, height=70, width=61, seed=1)
    got = streamed(method, [*before, *after], config)
    assert_same(got, streamed(method, before, config) + streamed(method, after, config))


def clocked(method: THP, images: Sequence[Image], config: THPConfig) -> dict[str, int]:
    """How often the backbone ran, and how often it did in parts."""
    entered: Counter[str] = Counter()

    class Counting:
        def stage(self, name: str) -> AbstractContextManager[None]:
            entered[name] += 1
            return nullcontext()

    stream = method.stream(config, Counting())
    for image in images:
        stream.push(image)
    return {name: entered[name] for name in ("backbone", "update")}


# ---- pictures


def test_pictures_are_of_the_last_frame() -> None:
    method, images = method_of(config_of()), video(4)
    config = config_of(**mixed(method, images)).row("c2")
    stream: Any = method.stream(config)
    assert stream.shows == ("flow", "mask")
    red_cells = []
    for image in images:
        stream.push(image)
        pictures = stream.pictures()
        assert set(pictures) == set(stream.shows)
        assert pictures["mask"].shape == image.shape
        red_cells.append(float((pictures["mask"] != image).any(axis=2).mean()))
        white = (pictures["flow"] == 255).all()
        assert white == (len(red_cells) in (1, 4)), "key frames are not propagated to"
    assert red_cells[0] == red_cells[3] == 1.0
    assert 0.2 < red_cells[1] < 0.8


# ---- aggregation


def test_aggregation_weights_are_a_softmax_of_cosines() -> None:
    torch.manual_seed(0)
    aggregation = RecursiveAggregation(6, 5, 7)
    earlier, own = torch.randn(2, 2, 6, 4, 5)
    a, b = aggregation.embedding(earlier), aggregation.embedding(own)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    of_earlier, of_own = cosine.exp(), torch.ones_like(cosine).exp()
    wanted = (of_earlier[:, None] * earlier + of_own[:, None] * own) / (of_earlier + of_own)[:, None]
    torch.testing.assert_close(aggregation(earlier, own), wanted)
    torch.testing.assert_close(aggregation(own, own), own)


def test_aggregation_remembers_earlier_key_frames() -> None:
    """A change of the first frame shows in the third key frame of c1, not in Deep Feature Flow's."""
    method, images = method_of(config_of()), video(7)
    other = [255 - images[0], *images[1:]]
    for row, remembers in (("c1", True), ("sparse-propagation", False)):
        config = config_of().row(row)
        changed = differ(streamed(method, images, config), streamed(method, other, config))
        assert changed == [True] * 3 + [remembers] * 4


# ---- training


def clip(images: Sequence[Image], index: int = 0, support: int = 1) -> Clip:
    truth = Truth(
        np.array([[8, 10, 28, 30], [32, 32, 60, 48]], np.float32),
        np.array([1, 3]),
        np.arange(2),
        np.zeros(2, np.bool_),
        np.zeros(2, np.bool_),
    )
    return Clip(
        0, "s", ClipFrame(index, images[index], truth), (ClipFrame(support, images[support], truth),), flip=False
    )


def begun(config: THPConfig, update: float | None = None) -> THP:
    method = method_of(config, update=update)
    method.begin_stage(method_spec("thp").stages(config)[-1])
    return method


@pytest.mark.parametrize(("update", "share"), [(-1.0, 1.0), (1.0, 0.0)])
def test_the_penalty_is_lambda_times_the_updated_share(update: float, share: float) -> None:
    for weight in (0.0, 2.0, 3.5):
        method = begun(config_of(update_weight=weight, forced_share=0.0), update)
        assert method.losses([clip(video(2))])["update"].item() == pytest.approx(weight * share)


def test_the_penalty_raises_q_and_lambda_0_does_not() -> None:
    for weight, sign in ((2.0, 1.0), (0.0, 0.0)):
        method = begun(config_of(update_weight=weight, forced_share=0.0), -0.5)
        method.losses([clip(video(2))])["update"].backward()
        head = method.flow.heads.update
        assert head is not None
        assert head.bias is not None
        assert head.bias.grad is not None
        # d (weight * mean U) / dQ = -weight: a step against it raises Q.
        assert float(-head.bias.grad) == pytest.approx(sign * weight)


def test_masks_are_forced_as_often_as_asked() -> None:
    method = method_of(config_of())
    logits = torch.linspace(-1, 1, 4).view(1, 1, 1, 4).expand(30_000, 1, 1, 4)
    torch.manual_seed(0)
    share = method.training_mask(logits).mean(dim=(1, 2, 3))
    for value in (0.0, 0.5, 1.0):
        assert float((share == value).float().mean()) == pytest.approx(1 / 3, abs=0.01)


def test_training_computes_what_the_stream_does() -> None:
    """The losses of a pair, in evaluation mode, are the detector's on the map that a stream answers from."""
    config = config_of(forced_share=0.0, rpn_batch=10**6, roi_batch=10**5)
    method, images = method_of(config, update=-1.0), video(3)
    maps: list[torch.Tensor] = []
    original = method.detector.maps
    method.detector.maps = lambda feature_map: maps.append(feature_map) or original(feature_map)  # type: ignore[method-assign, func-returns-value]
    method.losses([clip(images, index=2, support=0)])
    stream = method.stream(config.replace(gamma=1.0, key_frame_interval=10))
    stream.push(images[0])
    stream.push(images[2])
    torch.testing.assert_close(maps[0], maps[2], atol=1e-4, rtol=1e-4)


def test_a_frame_that_is_its_own_key_frame_answers_from_its_own_map() -> None:
    config = config_of(forced_share=0.0)
    images = video(1)
    method = method_of(config)
    maps: list[torch.Tensor] = []
    original = method.detector.maps
    method.detector.maps = lambda feature_map: maps.append(feature_map) or original(feature_map)  # type: ignore[method-assign, func-returns-value]
    method.losses([clip(images, index=0, support=0)])
    torch.testing.assert_close(maps[0], method.detector.extract(method.detector.preprocess(images)))


def test_losses_tell_q_where_propagation_fails() -> None:
    """U = 0 everywhere, and only the left half of the frame has changed: there, and nowhere else, Q is told to fall."""
    config = config_of(forced_share=0.0, update_weight=0.0, rpn_batch=10**6, roi_batch=10**5, flow_scale=False)
    method = method_of(config, update=0.5)
    nn.init.zeros_(method.flow.heads.flow.weight)
    nn.init.zeros_(method.flow.heads.flow.bias)  # type: ignore[arg-type]
    given: list[torch.Tensor] = []
    flow_between = method.flow_between

    def remembered(current: Any, key: Any) -> FlowOutput:
        output = flow_between(current, key)
        assert output.update is not None
        output.update.retain_grad()
        given.append(output.update)
        return output

    method.flow_between = remembered  # type: ignore[method-assign]
    random = np.random.default_rng(0)
    first, second = random.integers(0, 255, (2, 64, 96, 3), dtype=np.uint8)
    second[:, 48:] = first[:, 48:]
    sum(method.losses([clip([second, first])]).values(), torch.zeros(())).backward()
    gradient = given[0].grad
    assert gradient is not None
    strength = gradient[0, 0].abs().mean(dim=0)
    assert (strength[:10] > 100 * strength[20:].max()).all()


# ---- oracle scheduling


def truth_of(found: Detections, count: int = 3) -> Truth:
    """Annotations at the best detections."""
    count = min(count, len(found.labels))
    return Truth(
        found.boxes[:count],
        found.labels[:count],
        np.arange(count),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )


@pytest.mark.parametrize("row", ["sparse-propagation", "c1", "c2"])
def test_the_oracle_takes_the_better_of_both_answers_to_each_frame(row: str) -> None:
    """Both, by streams of the schedule so far with one more frame; truth that neither of them finds entirely."""
    method, images = method_of(config_of()), video(7)
    config = config_of(**mixed(method, images)).row(row)
    random = np.random.default_rng(0)
    mixtures = [
        streamed(method, images, config.row(name))[index]
        for index, name in enumerate(random.choice(["per-frame", "sparse-propagation"], len(images)))
    ]
    truths = [truth_of(found, 5) for found in mixtures]
    schedule = OracleStream(method, config)
    answers = [schedule.push_annotated(image, truth) for image, truth in zip(images, truths, strict=True)]
    assert all(len(answer) == 1 for answer in answers)
    assert schedule.close() == []
    replayed = schedule.replayed()
    assert_same([found for image in images for found in replayed.push(image)], [found for (found,) in answers])
    assert set(schedule.keys[1:]) == {False, True}, "a truth that tells both apart"
    for index in range(1, len(images)):
        scores = []
        for is_key in (False, True):
            stream = method.scheduled_stream([*schedule.keys[:index], is_key], config)
            *_, found = (d for image in images[: index + 1] for d in stream.push(image))
            scores.append(frame_map(found, truths[index], 3))
            if is_key == schedule.keys[index]:
                assert_same(answers[index], [found])
        assert schedule.keys[index] == (scores[1] > scores[0])


def test_a_schedule_is_streamed_as_given() -> None:
    method, images = method_of(config_of()), video(7)
    for interval in (1, 2, 3):
        config = config_of(key_frame_interval=interval).row("c2").replace(key_frame_interval=interval)
        stream = method.scheduled_stream([index % interval == 0 for index in range(7)], config)
        assert_same([found for image in images for found in stream.push(image)], streamed(method, images, config))


def test_frames_without_objects_are_no_key_frames() -> None:
    method, images = method_of(config_of()), video(3)
    schedule = OracleStream(method, config_of())
    for image in images:
        schedule.push_annotated(image, truth_of(Detections.empty()))
    assert schedule.keys == [True, False, False]


def test_the_oracle_is_a_setting_that_needs_annotations() -> None:
    method, images = method_of(config_of()), video(3)
    config = config_of(keys="oracle")
    assert config.guided
    assert not config_of().guided
    stream = method.guided_stream(config)
    assert [len(stream.push_annotated(image, truth_of(Detections.empty()))) for image in images] == [1, 1, 1]
    with pytest.raises(UserError, match="chooses key frames by the annotations"):
        method.stream(config)
    with pytest.raises(UserError, match="linking = 'seq-nms' with keys = 'oracle'"):
        config_of(keys="oracle", linking="seq-nms")


def test_frame_map_of_perfect_half_and_no_detections() -> None:
    boxes = np.array([[0, 0, 20, 20], [30, 30, 60, 60]], np.float32)
    truth = Truth(boxes, np.array([1, 2]), np.arange(2), np.zeros(2, np.bool_), np.zeros(2, np.bool_))
    scores = np.array([0.9, 0.8], np.float32)
    assert frame_map(Detections(boxes, scores, np.array([1, 2])), truth, 3) == pytest.approx(1.0)
    assert frame_map(Detections(boxes[:1], scores[:1], np.array([1])), truth, 3) == pytest.approx(0.5)
    assert frame_map(Detections.empty(), truth, 3) == 0.0
