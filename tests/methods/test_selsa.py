"""SELSA against its equations written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Detections, Image, Truth
from vodbench.transforms import Resized
from vodbench_methods.detection.faster_rcnn import FasterRCNN
from vodbench_methods.detection.records import FrameFeatures, Proposals
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.selsa.config import SELSAConfig
from vodbench_methods.selsa.model import SELSA, SPEC
from vodbench_methods.sequence import around, spread_over

SHRUNK = {
    "short_side": 48,
    "max_side": 64,
    "proposals": 10,
    "candidates": 50,
    "train_proposals": 10,
    "train_candidates": 50,
    "fc_channels": 32,
    "heads": 4,
    "test_frames": 3,
    "K": 5,
    "frame_range": 3,
    "K_train": 5,
    "score_threshold": 0.01,
}


def config_of(**changes: Any) -> SELSAConfig:
    return SELSAConfig.from_mapping({**SPEC.presets["tiny"], **SHRUNK, **changes})


def perturbed(config: SELSAConfig) -> SELSA:
    torch.manual_seed(1)
    method = SELSA(config, 3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method.eval()


def encoded(numbers: Sequence[int], dim: int = 32) -> list[FrameFeatures]:
    """Made-up frames with the given numbers of proposals, best first."""
    generator = torch.Generator().manual_seed(0)
    frames = []
    for number in numbers:
        corner = torch.rand(number, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 2 + torch.rand(number, 2, generator=generator) * 15], dim=1)
        features = torch.randn(number, dim, generator=generator)
        resized = Resized(np.empty((0, 0, 3), np.uint8), 1.0, 1.0)
        frames.append(FrameFeatures(boxes, torch.linspace(1, 0, number), features, (48, 48), resized))
    return frames


# ---- the equations, number by number, in float64


def weights_of(method: SELSA) -> dict[str, np.ndarray[Any, Any]]:
    return {name: weight.detach().numpy().astype(np.float64) for name, weight in method.state_dict().items()}


def linear(w: dict[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def literal_attention(w: dict[str, Any], name: str, x: Any, supports: Any, heads: int) -> Any:
    """What every row of x gathers: per head the softmax over supports of the scaled product, one pair at a time."""
    if len(supports) == 0:
        return np.zeros_like(x)
    query, key, value = (
        linear(w, f"{name}.{part}", of) for part, of in (("query", x), ("key", supports), ("value", supports))
    )
    width = x.shape[1] // heads
    gathered = np.zeros_like(x)
    for i in range(len(x)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = [sum(query[i, part] * key[j, part]) / math.sqrt(width) for j in range(len(supports))]
            powers = [math.exp(logit - max(logits)) for logit in logits]
            gathered[i, part] = sum(p / sum(powers) * value[j, part] for j, p in enumerate(powers))
    return linear(w, f"{name}.output", gathered)


def literal_features(method: SELSA, x: Tensor, supports: Tensor) -> Any:
    """fc, attention to the supports, add, ReLU; the supports go through fc and ReLU alone. Both after the first fc."""
    w = weights_of(method)
    query, pool = x.numpy().astype(np.float64), supports.numpy().astype(np.float64)
    for index in range(method.config.modules):
        if index:
            query, pool = linear(w, f"fcs.{index}", query), linear(w, f"fcs.{index}", np.maximum(pool, 0))
        query = np.maximum(query + literal_attention(w, f"aggregators.{index}", query, pool, method.config.heads), 0)
    return query


@pytest.mark.parametrize("modules", [1, 2, 3])
@pytest.mark.parametrize("numbers", [[4, 5, 1], [0, 3], [0, 0], [3, 0]])
def test_aggregated_features_equal_the_equations(modules: int, numbers: list[int]) -> None:
    method = perturbed(config_of(modules=modules))
    frame, *supports = encoded(numbers)
    with torch.no_grad():
        got = method.aggregate(frame.features, method.gather([method.support(s) for s in supports]))
    expected = literal_features(method, frame.features, torch.cat([s.features for s in supports]))
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("own_frame", [True, False])
@pytest.mark.parametrize("supports", ["video", "window"])
@pytest.mark.parametrize("numbers", [[6] * 8, [7, 2, 0, 9, 1, 0, 0, 6, 3], [4, 0], [3], [0, 0, 0]])
def test_streams_equal_the_equations(own_frame: bool, supports: str, numbers: list[int]) -> None:
    """Fewer than K proposals, none at all, and videos of fewer frames than ``test_frames`` included."""
    config = config_of(own_frame=own_frame, test_supports=supports)
    method = perturbed(config)
    frames = encoded(numbers)
    stream: Any = method.stream(config)
    found = [d for frame in frames for d in stream.push_encoded(frame)] + stream.close()
    assert len(found) == len(frames)
    for reference, got in enumerate(found):
        chosen = around(reference, len(frames), 3) if supports == "window" else spread_over(len(frames), 3)
        pool = [frames[i] for i in chosen] + [frames[reference]] * own_frame
        lent = torch.cat([torch.zeros(0, 32), *(frame.features[: config.K] for frame in pool)])
        frame = frames[reference].top(config.proposals)
        features = torch.from_numpy(literal_features(method, frame.features, lent)).float()
        with torch.no_grad():
            assert_same(got, method.detections(frame, features, config))


def assert_same(got: Detections, expected: Detections) -> None:
    assert len(got.boxes) == len(expected.boxes)
    np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-3, rtol=0)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(got.labels, expected.labels)


# ---- training


def images(count: int) -> list[Image]:
    return list(np.random.default_rng(0).integers(0, 255, (count, 48, 48, 3), dtype=np.uint8))


def clips_of(frames: list[Image]) -> list[Clip]:
    """Two clips: reference 1 with supports 0 and 2, reference 3 with supports 4 and 5."""
    ones = np.ones(1, np.int64)
    truth = Truth(np.array([[8, 8, 30, 30]], np.float32), 2 * ones, ones, np.array([False]), np.array([False]))
    made = [ClipFrame(i, image, truth) for i, image in enumerate(frames)]
    return [Clip(0, "s", made[1], (made[0], made[2]), False), Clip(1, "t", made[3], (made[4], made[5]), False)]


def test_training_attends_to_the_clips_own_supports_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The features that training scores are those of a stream's functions, given the same proposals."""
    config = config_of(K_train=4)
    method = perturbed(config)
    frames = images(6)
    with torch.no_grad():
        streamed = [method.encode(image, config) for image in frames]
        expected = []
        for reference, supports in ((1, (0, 2)), (3, (4, 5))):
            pool = method.gather([method.support(streamed[i].top(4)) for i in supports])
            expected.append(method.aggregate(streamed[reference].features, pool))
        same = [Proposals(streamed[i].boxes, streamed[i].objectness) for i in (1, 3, 0, 2, 4, 5)]
        monkeypatch.setattr(method, "propose_for_training", lambda output, sizes: same)
        monkeypatch.setattr(method, "sample_rois", lambda proposals, targets: proposals)
        monkeypatch.setattr(method, "head_losses", lambda features, samples: {"features": features})
        trained = method.losses(clips_of(frames))["features"]
    torch.testing.assert_close(trained, torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_a_frozen_detector_does_not_move() -> None:
    config = config_of()
    method = SELSA(config, 3)
    method.begin_stage(SPEC.stages(config)[-1])
    before = {name: weight.clone() for name, weight in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses(clips_of(images(6))).values())).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, w in method.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"fcs", "aggregators", "predictor"}


@pytest.mark.parametrize("modules", [2, 3])
def test_warm_start_begins_at_the_detectors_answers(modules: int) -> None:
    """With modules that add nothing, SELSA from a detector *is* the detector; a missing layer is the identity."""
    config = config_of(modules=modules)
    torch.manual_seed(3)
    detector = FasterRCNN(narrowed(config, method_spec("faster-rcnn").config), 3).eval()  # type: ignore[arg-type]
    method = SELSA(config, 3).eval()
    method.load_initial(detector.state_dict())
    for module in method.aggregators:
        torch.nn.init.zeros_(module.output.weight)  # type: ignore[arg-type, union-attr]
        torch.nn.init.zeros_(module.output.bias)  # type: ignore[arg-type, union-attr]
    frames = images(4)
    stream, single = method.stream(), detector.stream()
    got = [d for image in frames for d in stream.push(image)] + stream.close()
    for a, b in zip(got, [d for image in frames for d in single.push(image)], strict=True):
        assert_same(a, b)


def test_the_detector_stage_is_that_of_faster_rcnn() -> None:
    config, detector = config_of(), method_spec("faster-rcnn")
    ours, theirs = SPEC.stages(config)[0], detector.stages(narrowed(config, detector.config))[0]
    assert (ours.method, ours.config.training_settings(), ours.schedule, ours.clips) == (
        theirs.method,
        theirs.config.training_settings(),
        theirs.schedule,
        theirs.clips,
    )
    assert [stage.name for stage in SPEC.stages(SELSAConfig())] == ["relation"]


def test_support_frames_of_training_come_from_the_snippet_or_a_window() -> None:
    video = config_of(num_supports=9).clips()
    assert (video.num_supports, video.whole_snippet) == (9, True)
    window = config_of(train_supports="window").clips()
    assert (window.num_supports, window.whole_snippet, window.offset_low, window.offset_high) == (2, False, -3, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_frames": 0}, r"test_frames = 0 .*\[1, inf\)"),
        ({"test_supports": "all"}, r"test_supports = 'all' .*video, window"),
        ({"heads": 7}, r"heads = 7 does not divide fc_channels = 1024"),
        ({"num_supports": 5, "frame_range": 2, "train_supports": "window"}, r"num_supports = 5 .*frame_range = 4"),
        ({"modules": 0}, r"modules = 0 .*\[1, inf\)"),
        ({"freeze_detector": True}, r"freeze_detector = True with warm_start = 'none'"),
        ({"relation_drops": [1.5]}, r"relation_drops = \[1.5\]"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        SELSAConfig.from_mapping(values)
    assert "\n" not in str(error.value)
