"""Streams in which some frames are key frames, and the others see the last one's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import torch
from torch import Tensor

from vodbench.spec import Clock, Detections, Image
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch, FrameFeatures
from vodbench_methods.detection.streaming import Answer, Found
from vodbench_methods.flow import FlowOutput
from vodbench_methods.flow.drawing import flow_picture

if TYPE_CHECKING:
    from vodbench_methods.propagation.config import FlowNetworkConfig, KeyFrameConfig
    from vodbench_methods.propagation.model import FlowDetector


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What later frames need of a key frame."""

    batch: Batch
    feature_map: Tensor  # (1, C, h, w)
    shape: tuple[int, ...]  # of the original image

    def serves(self, image: Image) -> bool:
        """A frame of another size cannot be propagated to: it becomes a key frame itself."""
        return image.shape == self.shape


class KeyFrameStream(Generic[Found]):
    """The answer to a frame is final at once; every l-th frame is a key frame, and any whose size is new."""

    shows = ("flow",)

    def __init__(self, method: FlowDetector, config: KeyFrameConfig, clock: Clock, answer: Answer[Found]) -> None:
        self._method, self._config, self._clock, self._answer = method, config, clock, answer
        self._key: KeyFrame | None = None
        self._since = 0  # frames since the key frame, it included
        self._output: FlowOutput | None = None  # of the last frame; None for a key frame

    @torch.inference_mode()
    def push(self, image: Image) -> list[Found]:
        if self._key is None or self._since >= self._config.key_frame_interval or not self._key.serves(image):
            frame = self._detect_key_frame(image)
        else:
            frame, self._output = propagated(self._method, image, self._key, self._config, self._clock)
        self._since += 1
        with self._clock.stage("post"):
            return [self._answer(frame, frame.features)]

    def close(self) -> list[Found]:
        return []

    def pictures(self) -> Mapping[str, Image]:
        """Of the last frame: the flow to its key frame."""
        assert self._key is not None, "a frame was pushed"
        return {"flow": flow_picture(self._output, self._key.feature_map)}

    def _detect_key_frame(self, image: Image) -> FrameFeatures:
        self._key, self._since, self._output = key_frame(self._method, image, self._clock), 0, None
        return of_key_frame(self._method, self._key, self._config, self._clock)


def key_frame(method: FlowDetector, image: Image, clock: Clock) -> KeyFrame:
    """The image's own map."""
    with clock.stage("preprocess"):
        batch = method.detector.preprocess([image])
    with clock.stage("backbone"):
        return KeyFrame(batch, method.detector.extract(batch), image.shape)


def of_key_frame(method: FlowDetector, key: KeyFrame, config: KeyFrameConfig, clock: Clock) -> FrameFeatures:
    """Proposals of a key frame and their features, from its own map."""
    if config.warped_key_frames:
        return seen_from(method, key.batch, key, config, clock)[0]
    return method.detector.frame_from(key.feature_map, key.batch, config, clock)


def propagated(
    method: FlowDetector, image: Image, key: KeyFrame, config: FlowNetworkConfig, clock: Clock
) -> tuple[FrameFeatures, FlowOutput]:
    """Proposals of a frame and their features, from the key frame's map; and how that came here."""
    with clock.stage("preprocess"):
        batch = method.detector.preprocess([image])
    return seen_from(method, batch, key, config, clock)


def seen_from(
    method: FlowDetector, batch: Batch, key: KeyFrame, config: FlowNetworkConfig, clock: Clock
) -> tuple[FrameFeatures, FlowOutput]:
    """The same for the one image of ``batch``."""
    with clock.stage("flow"):
        output = method.flow_between(batch, key.batch)
    with clock.stage("warp"):
        feature_map = method.propagate(key.feature_map, output)
    return method.detector.frame_from(feature_map, batch, config, clock), output


def detect_from_key_frame(
    method: FlowDetector, images: Sequence[Image], reference: int, config: KeyFrameConfig
) -> Detections:
    """Detections of frame ``reference`` from its key frame alone, for frames of one size."""
    clock = NullClock()
    key = key_frame(method, images[reference - reference % config.key_frame_interval], clock)
    if reference % config.key_frame_interval:
        frame, _ = propagated(method, images[reference], key, config, clock)
    else:
        frame = of_key_frame(method, key, config, clock)
    return method.detector.detections(frame, frame.features, config)
