"""A video going through RDN: a sliding window of 2T + 1 frames, each encoded once."""

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
from vodbench_methods.rdn.records import Pool
from vodbench_methods.sequence import window

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic


class RDNStream(EncodedFrames[Found]):
    """The answer to frame t lags T frames: it is final when frame t + T was seen, or when the video ends."""

    def __init__(self, method: RDNBasic, config: RDNBasicConfig, clock: Clock, answer: Answer[Found]) -> None:
        super().__init__(method, config, clock)
        self._method, self._answer = method, answer
        self._memory = method.memory(config)
        self._owed: deque[FrameFeatures] = deque()  # frames without an answer so far, oldest first
        self._num_frames = 0

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        with self._clock.stage("relation"):
            self._memory.push(self._method.support(encoded.top(self._config.K)))
        self._owed.append(encoded.top(self._config.proposals))
        self._num_frames += 1
        return [self._answer_oldest()] if len(self._owed) > self._config.T else []

    @torch.inference_mode()
    def close(self) -> list[Found]:
        return [self._answer_oldest() for _ in range(len(self._owed))]

    def _answer_oldest(self) -> Found:
        reference = self._num_frames - len(self._owed)
        frames, copies = window(reference, self._num_frames, self._config)
        frame = self._owed.popleft()
        with self._clock.stage("relation"):
            pool = self._memory.pool(copies)
            features = self._method.relate(frame.features, frame.boxes, pool)
            relation = self._relation_to_next(frame, pool, reference - frames.start, copies)
            if reference == frames.start + self._config.T:
                self._memory.pop()
        with self._clock.stage("post"):
            return self._answer(frame, features, relation)

    def _relation_to_next(self, frame: FrameFeatures, pool: Pool, place: int, copies: Sequence[int]) -> Tensor | None:
        """Where box linking asks for it: attention on what the next frame lends; ``place`` is the frame's own."""
        if not wants_relations(self._config.linking) or place + 1 >= len(pool.places):
            return None
        # A frame that stands in for those beyond the video's end has their shares too: one of them counts.
        return self._method.relation_to(frame, pool, pool.places[place + 1]) / copies[place + 1]


def detect_window(
    method: RDNBasic, frames: Sequence[FrameFeatures], reference: int, config: RDNBasicConfig
) -> Detections:
    """Detections of one frame of a whole video, from scratch: what a stream must return for it."""
    indices, copies = window(reference, len(frames), config)
    supports = [method.support(frames[i].top(config.K)) for i in indices]
    frame = frames[reference].top(config.proposals)
    features = method.relate(frame.features, frame.boxes, method.gather(supports, copies, config))
    return method.detections(frame, features, config)
