"""A video going through a method whose support frames are spread over the whole of it, or lie in a window.

Both streams encode a frame once, when it is pushed. The support frames of a whole video are known when it ends, so
everything is answered then; until then a frame's ``FrameFeatures`` are kept (n proposals x D numbers: 1.2 MB for 300
of 1024), which is what it needs as a reference. What a frame lends, such as keys and values, is made of the frame
alone: once for each support frame, and only for those. A frame is let go when it has been answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vodbench.spec import Clock, Detections, FrameEncoder, Image
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Answer, AnswerStream, EncodedFrames, Found
from vodbench_methods.sequence.choice import around, reach, spread_over
from vodbench_methods.sequence.config import SequenceConfig

Lent = TypeVar("Lent")  # what a support frame lends, made of that frame alone
Pool = TypeVar("Pool")  # what all support frames of a reference lend together


class SequenceMethod(FrameEncoder, Protocol[Lent, Pool]):
    """What a method supplies to have these streams. ``config`` differs from its own in inference knobs only."""

    def encode(self, image: Image, config: Any, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame, ``config.encoded_proposals`` at most, and their features."""
        ...

    def support(self, frame: FrameFeatures) -> Lent:
        """What a frame lends to others: all proposals given (the stream hands over the K best)."""
        ...

    def gather(self, supports: Sequence[Lent]) -> Pool:
        """One pool of several supports; there may be none of them, and none of their proposals."""
        ...

    def relate(self, frame: FrameFeatures, pool: Pool, config: Any) -> Tensor:
        """(n, D) features of the reference frame's n proposals, ready for ``detections``. The pool is not changed."""
        ...

    def detections(self, frame: FrameFeatures, features: Tensor, config: Any) -> Detections:
        """Detections in original pixels."""
        ...


def sequence_stream(
    method: SequenceMethod[Lent, Pool], config: SequenceConfig, clock: Clock, answer: Answer[Found]
) -> AnswerStream[Found]:
    """The stream that ``config.test_supports`` asks for."""
    if config.test_supports == "window":
        return WindowStream(method, config, clock, answer)
    return WholeVideoStream(method, config, clock, answer)


def detect_from_scratch(
    method: SequenceMethod[Lent, Pool], frames: Sequence[FrameFeatures], reference: int, config: SequenceConfig
) -> Detections:
    """Detections of one frame of a whole encoded video, with nothing kept: what a stream must return for it."""
    if config.test_supports == "window":
        chosen = around(reference, len(frames), config.test_frames)
    else:
        chosen = spread_over(len(frames), config.test_frames)
    pool = method.gather([method.support(frames[i].top(config.K)) for i in chosen])
    frame = frames[reference].top(config.proposals)
    return method.detections(frame, method.relate(frame, pool, config), config)


class _SequenceStream(EncodedFrames[Found], Generic[Lent, Pool, Found]):
    """What both streams share: a frame is answered with the pool of its supports."""

    def __init__(
        self, method: SequenceMethod[Lent, Pool], config: SequenceConfig, clock: Clock, answer: Answer[Found]
    ) -> None:
        super().__init__(method, config, clock)
        self._method, self._to_answer = method, answer
        self._owed: deque[FrameFeatures] = deque()  # frames without detections so far, oldest first

    def _answer(self, frame: FrameFeatures, pool: Pool) -> Found:
        frame = frame.top(self._config.proposals)
        with self._clock.stage("relation"):
            features = self._method.relate(frame, pool, self._config)
        with self._clock.stage("post"):
            return self._to_answer(frame, features)

    def _gathered(self, supports: Sequence[Lent]) -> Pool:
        with self._clock.stage("relation"):
            return self._method.gather(supports)

    def _support(self, frame: FrameFeatures) -> Lent:
        with self._clock.stage("relation"):
            return self._method.support(frame.top(self._config.K))


class WholeVideoStream(_SequenceStream[Lent, Pool, Found]):
    """Support frames evenly spread over the video: nothing is final before it ends."""

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        self._owed.append(encoded)
        return []

    @torch.inference_mode()
    def close(self) -> list[Found]:
        if not self._owed:
            return []
        chosen = spread_over(len(self._owed), self._config.test_frames)
        pool = self._gathered([self._support(self._owed[i]) for i in chosen])
        return [self._answer(self._owed.popleft(), pool) for _ in range(len(self._owed))]


class WindowStream(_SequenceStream[Lent, Pool, Found]):
    """Support frames next to the reference frame: detections lag as many frames as lie after it."""

    def __init__(
        self, method: SequenceMethod[Lent, Pool], config: SequenceConfig, clock: Clock, answer: Answer[Found]
    ) -> None:
        super().__init__(method, config, clock, answer)
        self._before, self._after = reach(config.test_frames)
        self._lent: deque[tuple[int, Lent]] = deque()  # frame and what it lends, of the current window
        self._num_frames = 0

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        self._lent.append((self._num_frames, self._support(encoded)))
        self._owed.append(encoded)
        self._num_frames += 1
        return [self._answer_oldest()] if len(self._owed) > self._after else []

    @torch.inference_mode()
    def close(self) -> list[Found]:
        return [self._answer_oldest() for _ in range(len(self._owed))]

    def _answer_oldest(self) -> Found:
        reference = self._num_frames - len(self._owed)
        while self._lent[0][0] < reference - self._before:
            self._lent.popleft()
        pool = self._gathered([lent for index, lent in self._lent if index != reference])
        return self._answer(self._owed.popleft(), pool)
