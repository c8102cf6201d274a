"""Which data carry exact motion, and how frames get their records of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from vodbench.errors import UserError
from vodbench.spec import ClipSpec, Frame


@runtime_checkable
class MotionSource(Protocol):
    """What a data set that knows exact motion offers besides; ``vodbench_datasets.motion`` says what a record is."""

    def has_motion(self, split: str) -> bool:
        """Whether every frame of the split has a record."""
        ...

    def motion(self, split: str, snippet: str, indices: Sequence[int]) -> list[bytes]:
        """The records of these frames, in the order asked for."""
        ...


def carries_motion(dataset: Any, split: str) -> bool:
    return isinstance(dataset, MotionSource) and dataset.has_motion(split)


def check_flow(dataset: Any, clips: ClipSpec, split: str) -> None:
    """``UserError`` when the clips are to carry flow and the data know none."""
    if clips.flow and not carries_motion(dataset, split):
        raise UserError(
            f"split '{split}' of '{dataset.root}' carries no ground-truth flow; use generated video "
            "('vodbench data generate OUT', or its shards), or train without flow as a label"
        )


def with_motion(source: MotionSource, split: str, snippet: str, frames: Sequence[Frame]) -> list[Frame]:
    """Frames of one snippet, each with its record."""
    records = source.motion(split, snippet, [frame.index for frame in frames])
    return [replace(frame, motion=record) for frame, record in zip(frames, records, strict=True)]
