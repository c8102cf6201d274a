"""A video going through RDN: a sliding window of 2T + 1 frames, each encoded once; for one setting or several."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench.spec import Clock, Detections
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Answer, EncodedFrames, Found
from vodbench_methods.linking import wants_relations
from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.windows import RelationWindows
from vodbench_methods.sequence import window

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


class RDNStream(EncodedFrames[Found]):
    """The answer to frame t lags T frames: it is final when frame t + T was seen, or when the video ends."""

    def __init__(self, method: RDNBasic, config: RDNBasicConfig, clock: Clock, answer: Answer[Found]) -> None:
        super().__init__(method, config, clock)
        self._method, self._answer = method, answer
        self._windows = RelationWindows(method, [config])
        self._owed: deque[FrameFeatures] = deque()  # frames without an answer so far, oldest first

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        with self._clock.stage("relation"):
            self._windows.push(encoded)
        self._owed.append(encoded.top(self._config.proposals))
        return [self._answer_oldest()] if len(self._owed) > self._config.T else []

    @torch.inference_mode()
    def close(self) -> list[Found]:
        return [self._answer_oldest() for _ in range(len(self._owed))]

    def _answer_oldest(self) -> Found:
        reference = self._windows.num_frames - len(self._owed)
        frame = self._owed.popleft()
        with self._clock.stage("relation"):
            (features,) = self._windows.related(frame, reference)
            relation = self._relation_to_next(frame, reference)
            self._windows.leave(reference)
        with self._clock.stage("post"):
            return self._answer(frame, features, relation)

    def _relation_to_next(self, frame: FrameFeatures, reference: int) -> Tensor | None:
        """Where box linking asks for it: attention on what the next frame lends."""
        if not wants_relations(self._config.linking):
            return None
        pool, place, copies = self._windows.pool(reference)
        if place + 1 >= len(pool.places):
            return None
        # A frame that stands in for those beyond the video's end has their shares too: one of them counts.
        return self._method.relation_to(frame, pool, pool.places[place + 1]) / copies[place + 1]


class RDNJointStream:
    """Several settings of T, K, r and how detections are chosen: all answer to a frame when the largest T allows it."""

    def __init__(self, method: RDNBasic, configs: Sequence[RDNBasicConfig], clock: Clock) -> None:
        self._method, self._configs, self._clock = method, configs, clock
        self._windows = RelationWindows(method, configs)
        self._lag = max(config.T for config in configs)
        self._owed: deque[FrameFeatures] = deque()

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[list[Detections]]:
        with self._clock.stage("relation"):
            self._windows.push(encoded)
        self._owed.append(encoded.top(self._configs[0].proposals))
        return [self._answer_oldest()] if len(self._owed) > self._lag else []

    @torch.inference_mode()
    def close(self) -> list[list[Detections]]:
        return [self._answer_oldest() for _ in range(len(self._owed))]

    def _answer_oldest(self) -> list[Detections]:
        reference = self._windows.num_frames - len(self._owed)
        frame = self._owed.popleft()
        with self._clock.stage("relation"):
            features = self._windows.related(frame, reference)
            self._windows.leave(reference)
        with self._clock.stage("post"):
            return self._method.detections_of_many(frame, features, self._configs)


def detect_window(
    method: RDNBasic, frames: Sequence[FrameFeatures], reference: int, config: RDNBasicConfig
) -> Detections:
    """Detections of one frame of a whole video, from scratch: what a stream must return for it."""
    indices, copies = window(reference, len(frames), config)
    supports = [method.support(frames[i].top(config.K)) for i in indices]
    frame = frames[reference].top(config.proposals)
    features = method.relate(frame.features, frame.boxes, method.gather(supports, copies, config))
    return method.detections(frame, features, config)
