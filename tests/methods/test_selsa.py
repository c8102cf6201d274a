"""SELSA against its equations written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Clip, Detections, Image
from vodbench_methods.detection.records import Proposals
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.selsa.config import SELSAConfig
from vodbench_methods.selsa.model import SELSA, SPEC
from vodbench_methods.sequence import around, spread_over

METHOD = "selsa"


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
def test_aggregated_features_equal_the_equations(tiny: Any, modules: int, numbers: list[int]) -> None:
    method = tiny.method(modules=modules)
    frame, *supports = tiny.frames(numbers)
    with torch.no_grad():
        got = method.aggregate(frame.features, method.gather([method.support(s) for s in supports]))
    expected = literal_features(method, frame.features, torch.cat([s.features for s in supports]))
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("own_frame", [True, False])
@pytest.mark.parametrize("supports", ["video", "window"])
@pytest.mark.parametrize("numbers", [[6] * 8, [7, 2, 0, 9, 1, 0, 0, 6, 3], [4, 0], [3], [0, 0, 0]])
def test_streams_equal_the_equations(tiny: Any, own_frame: bool, supports: str, numbers: list[int]) -> None:
    """Fewer than K proposals, none at all, and videos of fewer frames than ``test_frames`` included."""
    method = tiny.method(own_frame=own_frame, test_supports=supports)
    config = method.config
    frames = tiny.frames(numbers)
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


def clips_of(tiny: Any, frames: list[Image]) -> list[Clip]:
    """Two clips: reference 1 with supports 0 and 2, reference 3 with supports 4 and 5."""
    return [tiny.clip([frames[i] for i in (1, 0, 2)]), tiny.clip([frames[i] for i in (3, 4, 5)], number=1)]


def test_training_attends_to_the_clips_own_supports_alone(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features that training scores are those of a stream's functions, given the same proposals."""
    method = tiny.method(K_train=4)
    config, frames = method.config, tiny.images(6)
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
        trained = method.losses(clips_of(tiny, frames))["features"]
    torch.testing.assert_close(trained, torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_a_frozen_detector_does_not_move(tiny: Any) -> None:
    config = tiny.config()
    method = SELSA(config, 3)
    method.begin_stage(SPEC.stages(config)[-1])
    before = {name: weight.clone() for name, weight in method.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    torch.stack(list(method.losses(clips_of(tiny, tiny.images(6))).values())).sum().backward()
    optimizer.step()
    moved = {name.split(".")[0] for name, w in method.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"fcs", "aggregators", "predictor"}


def test_the_detector_stage_is_that_of_faster_rcnn(tiny: Any) -> None:
    config, detector = tiny.config(), method_spec("faster-rcnn")
    ours, theirs = SPEC.stages(config)[0], detector.stages(narrowed(config, detector.config))[0]
    assert (ours.method, ours.config.training_settings(), ours.schedule, ours.clips) == (
        theirs.method,
        theirs.config.training_settings(),
        theirs.schedule,
        theirs.clips,
    )
    assert [stage.name for stage in SPEC.stages(SELSAConfig())] == ["relation"]


def test_support_frames_of_training_come_from_the_snippet_or_a_window(tiny: Any) -> None:
    video = tiny.config(num_supports=9).clips()
    assert (video.num_supports, video.whole_snippet) == (9, True)
    window = tiny.config(train_supports="window").clips()
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
