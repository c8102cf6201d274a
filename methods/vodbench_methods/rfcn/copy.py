"""The copy baseline: a key frame's answer, repeated until the next key frame (Han et al., semi-DFF, 2018, Table 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from vodbench.spec import Image
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Found, SingleFrameStream


class CopyStream(Generic[Found]):
    """Frame 0 is a key frame, every ``interval``-th after it, and any whose size is new: a copy would not fit it."""

    def __init__(self, key_frames: SingleFrameStream[Found], interval: int) -> None:
        self._key_frames, self._interval = key_frames, interval
        self._kept: list[Found] = []
        self._size: tuple[int, int] | None = None  # (height, width) of the key frame
        self._since = 0  # frames since the key frame, it included

    def push(self, image: Image) -> list[Found]:
        return self._answer((image.shape[0], image.shape[1]), lambda: self._key_frames.push(image))

    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        """As ``push`` for a frame that ``encode`` has seen already (possibly for another stream)."""
        (height, width), resized = encoded.size, encoded.resized
        original = (round(height / resized.scale_y), round(width / resized.scale_x))
        return self._answer(original, lambda: self._key_frames.push_encoded(encoded))

    def _answer(self, size: tuple[int, int], detect: Callable[[], list[Found]]) -> list[Found]:
        if size != self._size or self._since >= self._interval:
            self._kept, self._size, self._since = detect(), size, 0
        self._since += 1
        return list(self._kept)

    def close(self) -> list[Found]:
        return []
