"""The copy baseline: key frames as the detector sees them, copies between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vodbench.registry import method_spec
from vodbench.spec import Detections, EncodedStream, Image
from vodbench.streaming import detect_snippet
from vodbench_methods.rfcn.model import RFCN

SHRUNK = {"short_side": 64, "max_side": 96, "proposals": 8, "candidates": 60}


@pytest.fixture(scope="module")
def method() -> RFCN:
    spec = method_spec("r-fcn")
    torch.manual_seed(0)
    made = spec.build(spec.config.from_mapping({**spec.presets["tiny"], **SHRUNK}), 3)
    assert isinstance(made, RFCN)
    return made.eval()


def frames(count: int, height: int = 56, width: int = 72) -> list[Image]:
    return list(np.random.default_rng(height).integers(0, 255, (count, height, width, 3), dtype=np.uint8))


def detected(method: RFCN, images: list[Image], interval: int) -> list[Detections]:
    config = method.config.replace(key_frame_interval=interval)
    stream = method.stream(config)
    found = [stream.push(image) for image in images]
    assert [len(f) for f in found] == [1] * len(images)
    return [one for answers in found for one in answers]


def same(a: Detections, b: Detections) -> bool:
    return np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("interval", [1, 2, 3, 50])
def test_every_frame_has_its_key_frames_detections(method: RFCN, interval: int) -> None:
    images = frames(7)
    alone = detected(method, images, 1)
    assert not same(alone[0], alone[1])
    for index, found in enumerate(detected(method, images, interval)):
        assert same(found, alone[index - index % interval])


def test_a_frame_of_another_size_is_looked_at(method: RFCN) -> None:
    images = [*frames(2), *frames(3, 72, 56)]
    alone = detected(method, images, 1)
    keys = [0, 0, 2, 2, 2]
    for key, found in zip(keys, detected(method, images, 10), strict=True):
        assert same(found, alone[key])


def test_copies_cost_nothing(method: RFCN) -> None:
    """Nor does it take a frame that was encoded for another stream: that has its price."""
    config = method.config.replace(key_frame_interval=3)
    assert not isinstance(method.stream(config), EncodedStream)
    (result,) = detect_snippet(method, [config], frames(7))
    ran = [times["backbone"] > 0 for times in result.stage_ms]
    assert ran == [index % 3 == 0 for index in range(7)]
