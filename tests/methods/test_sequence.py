"""Support frames from the whole video: which, and streams that use each of them once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, Detections, Image
from vodbench.transforms import Resized
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import AnswerStream
from vodbench_methods.sequence import SequenceConfig, around, detect_from_scratch, sequence_stream, spread_over


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 7, 30, 31, 299])
@pytest.mark.parametrize("count", [1, 2, 3, 14, 31])
def test_frames_are_spread_evenly(num_frames: int, count: int) -> None:
    """Against the same positions as exact fractions."""
    chosen = spread_over(num_frames, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(num_frames, count)
    if num_frames > count > 1:
        exact = [Fraction(i * (num_frames - 1), count - 1) for i in range(count)]
        assert chosen == [floor(x + Fraction(1, 2)) for x in exact]
        assert (chosen[0], chosen[-1]) == (0, num_frames - 1)
    elif num_frames > count:
        assert abs(chosen[0] - Fraction(num_frames - 1, 2)) <= Fraction(1, 2)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_neighbours_equal_brute_force(count: int) -> None:
    for num_frames in range(1, 9):
        for reference in range(num_frames):
            by_distance = sorted(range(-40, 41), key=lambda d: (abs(d), -d))  # the frame after comes first
            offsets = [d for d in by_distance if d][:count]
            expected = sorted(reference + d for d in offsets if 0 <= reference + d < num_frames)
            assert around(reference, num_frames, count) == expected


class Numbers:
    """A method whose frame is a number; its detections' scores are the frame's, then those of its supports."""

    def __init__(self) -> None:
        self.lent: list[float] = []  # in the order in which frames were asked for support
        self.kept: list[weakref.ref[Any]] = []  # features of every frame that was encoded
        self.lending: list[weakref.ref[Any]] = []

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        return {}

    def encode(self, image: Image, config: Any, clock: Clock | None = None) -> FrameFeatures:
        features = torch.full((config.encoded_proposals, 1), float(image[0, 0, 0]))
        frame = FrameFeatures(
            torch.zeros(len(features), 4),
            features[:, 0],
            features,
            (1, 1),
            Resized(np.zeros((0, 0, 3), np.uint8), 1, 1),
        )
        self.kept.append(weakref.ref(features))
        return frame

    def support(self, frame: FrameFeatures) -> Tensor:
        self.lent.append(frame.features[0, 0].item())
        lent = frame.features.clone()
        self.lending.append(weakref.ref(lent))
        return lent

    def gather(self, supports: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.zeros(0, 1), *supports])

    def relate(self, frame: FrameFeatures, pool: Tensor, config: MethodConfig) -> Tensor:
        return torch.cat([frame.features, pool])

    def detections(self, frame: FrameFeatures, features: Tensor, config: MethodConfig) -> Detections:
        count = len(features)
        return Detections(np.zeros((count, 4), np.float32), features[:, 0].numpy(), np.ones(count, np.int64))


def stream_of(method: Numbers, config: SequenceConfig) -> AnswerStream[Detections]:
    def answer(frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> Detections:
        return method.detections(frame, features, config)

    return sequence_stream(method, config, NullClock(), answer)


def run(method: Numbers, num_frames: int, config: SequenceConfig) -> tuple[list[int], list[list[float]]]:
    """How many detections each push returned, and the scores of all of them."""
    stream = stream_of(method, config)
    pushed = [stream.push(np.full((1, 1, 3), t, np.uint8)) for t in range(num_frames)]
    found = [d for given in pushed for d in given] + stream.close()
    return [len(given) for given in pushed], [d.scores.tolist() for d in found]


@pytest.mark.parametrize("num_frames", [0, 1, 3, 4, 11])
def test_whole_video_answers_when_it_ends(num_frames: int) -> None:
    method, config = Numbers(), SequenceConfig(test_frames=4, proposals=3, K=2)
    pushed, scores = run(method, num_frames, config)
    assert pushed == [0] * num_frames
    assert config.latency is None
    chosen = spread_over(num_frames, 4)
    assert scores == [[t] * 3 + [c for c in chosen for _ in range(2)] for t in range(num_frames)]
    assert method.lent == chosen, "each support frame lends once, the others never"


@pytest.mark.parametrize("num_frames", [0, 1, 3, 4, 11])
@pytest.mark.parametrize("test_frames", [1, 4, 5])
def test_window_answers_as_soon_as_it_can(num_frames: int, test_frames: int) -> None:
    method, config = Numbers(), SequenceConfig(test_frames=test_frames, proposals=1, K=1, test_supports="window")
    pushed, scores = run(method, num_frames, config)
    lag = test_frames - test_frames // 2
    assert config.latency == lag
    assert pushed == [0 if t < lag else 1 for t in range(num_frames)]
    assert scores == [[t, *around(t, num_frames, test_frames)] for t in range(num_frames)]
    assert method.lent == list(range(num_frames))


@pytest.mark.parametrize("supports", ["video", "window"])
def test_streams_equal_detection_from_scratch(supports: str) -> None:
    method, config = Numbers(), SequenceConfig(test_frames=3, proposals=2, K=4, test_supports=supports)
    _, scores = run(method, 9, config)
    frames = [method.encode(np.full((1, 1, 3), t, np.uint8), config) for t in range(9)]
    assert scores == [detect_from_scratch(method, frames, t, config).scores.tolist() for t in range(9)]


def test_a_window_lets_frames_go() -> None:
    method, config = Numbers(), SequenceConfig(test_frames=2, proposals=1, K=1, test_supports="window")
    stream = stream_of(method, config)
    for t in range(20):
        stream.push(np.full((1, 1, 3), t, np.uint8))
    gc.collect()
    assert sum(features() is not None for features in method.kept) == 1, "the last frame awaits the next"
    assert sum(lent() is not None for lent in method.lending) == 3
