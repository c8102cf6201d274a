"""The copy baseline: a key frame's answer, repeated until the next key frame (Han et al., semi-DFF, 2018, Table 1)."""

from __future__ import annotations

from typing import Generic

from vodbench.spec import Image
from vodbench_methods.detection.streaming import Found, SingleFrameStream


class CopyStream(Generic[Found]):
    """Frame 0 is a key frame, every ``interval``-th after it, and any whose size is new: a copy would not fit it.

    It takes images only: frames encoded for another stream would cost it what it is there to save.
    """

    def __init__(self, key_frames: SingleFrameStream[Found], interval: int) -> None:
        self._key_frames, self._interval = key_frames, interval
        self._kept: list[Found] = []
        self._shape: tuple[int, ...] | None = None  # of the key frame
        self._since = 0  # frames since the key frame, it included

    def push(self, image: Image) -> list[Found]:
        if image.shape != self._shape or self._since >= self._interval:
            self._kept, self._shape, self._since = self._key_frames.push(image), image.shape, 0
        self._since += 1
        return list(self._kept)

    def close(self) -> list[Found]:
        return []
