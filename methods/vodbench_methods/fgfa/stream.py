"""A video going through FGFA: a sliding window of 2T + 1 frames, each encoded once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vodbench.spec import Clock, Image
from vodbench_methods.detection.streaming import Answer, EncodedFrames, Found
from vodbench_methods.fgfa.records import EncodedFrame
from vodbench_methods.sequence import window

if TYPE_CHECKING:
    from vodbench_methods.fgfa.config import FGFAConfig
    from vodbench_methods.fgfa.model import FGFA


class FGFAStream(EncodedFrames[Found]):
    """The answer to frame t lags T frames: it is final when frame t + T was seen, or when the video ends.

    A frame of another size ends the video before it: nothing can be warped from one to the other, so the frames before
    are answered at once, and the window fills anew.
    """

    def __init__(self, method: FGFA, config: FGFAConfig, clock: Clock, answer: Answer[Found]) -> None:
        super().__init__(method, config, clock)
        self._method, self._answer = method, answer
        self._frames: deque[EncodedFrame] = deque()  # of frames that a window may still hold, the newest last
        self._num_frames = 0  # of this size so far
        self._owed = 0  # frames without an answer so far

    @torch.inference_mode()
    def push_encoded(self, encoded: EncodedFrame) -> list[Found]:
        final = self.close() if self._frames and not encoded.fits(self._frames[-1]) else []
        self._frames.append(encoded)
        self._num_frames += 1
        self._owed += 1
        return [*final, self._answer_oldest()] if self._owed > self._config.T else final

    @torch.inference_mode()
    def close(self) -> list[Found]:
        final = [self._answer_oldest() for _ in range(self._owed)]
        self._frames.clear()
        self._num_frames = 0
        return final

    def _answer_oldest(self) -> Found:
        reference, oldest = self._num_frames - self._owed, self._num_frames - len(self._frames)
        indices, copies = window(reference, self._num_frames, self._config)
        frames = [self._frames[index - oldest] for index in indices]
        found = answer_among(
            self._method, frames, copies, reference - indices.start, self._config, self._clock, self._answer
        )
        self._owed -= 1
        while self._frames and self._num_frames - len(self._frames) <= reference - self._config.T:
            self._frames.popleft()
        return found


def answer_among(
    method: FGFA,
    frames: Sequence[EncodedFrame],
    copies: Sequence[int],
    reference: int,
    config: FGFAConfig,
    clock: Clock,
    answer: Answer[Found],
) -> Found:
    """The answer to ``frames[reference]``, whose window is ``frames``; each counts ``copies`` times."""
    feature_map = method.aggregated(frames, copies, reference, config, clock)
    frame = method.detector.frame_from(feature_map, frames[reference].batch, config, clock)
    with clock.stage("post"):
        return answer(frame, frame.features)


def of_one_size(images: Sequence[Image], reference: int) -> range:
    """The longest run of images around ``reference`` that have its size: what a stream takes for its video."""
    size = images[reference].shape
    start = stop = reference
    while start > 0 and images[start - 1].shape == size:
        start -= 1
    while stop < len(images) and images[stop].shape == size:
        stop += 1
    return range(start, stop)
