"""Which frames of a video support a reference frame at test time. Nothing is drawn: a video always gives the same."""

from __future__ import annotations

from typing import Protocol


def spread_over(num_frames: int, count: int) -> list[int]:
    """``count`` frames evenly spread over a video of ``num_frames``, from the first to the last, in order.

    Frame i is i (num_frames - 1) / (count - 1), rounded half up; a single one is the middle frame (the earlier of two).
    A video of ``count`` frames or fewer gives each once. (mmtracking's "adaptive stride" is the same but for exact
    halves, which it rounds to even, and for such short videos, whose frames it repeats.)
    """
    assert num_frames >= 0, num_frames
    assert count >= 1, count
    if num_frames <= count:
        return list(range(num_frames))
    if count == 1:
        return [(num_frames - 1) // 2]
    steps = count - 1
    return [(2 * i * (num_frames - 1) + steps) // (2 * steps) for i in range(count)]


def reach(count: int) -> tuple[int, int]:
    """How many of ``count`` neighbours lie before and after the reference frame; an odd one lies after it."""
    return count // 2, count - count // 2


def around(reference: int, num_frames: int, count: int) -> list[int]:
    """The ``count`` neighbours of a frame, without the frame itself; fewer at the ends of the video."""
    before, after = reach(count)
    start, stop = max(0, reference - before), min(num_frames, reference + after + 1)
    return [i for i in range(start, stop) if i != reference]


class WindowSettings(Protocol):
    """The knobs of a method whose support frames lie on both sides of the reference frame."""

    @property
    def T(self) -> int: ...  # noqa: N802 - the knob's name

    @property
    def video_ends(self) -> str: ...


def window(reference: int, num_frames: int, config: WindowSettings) -> tuple[range, list[int]]:
    """The 2T + 1 frames around ``reference`` in a video of ``num_frames``, itself included, and how often each counts.

    ``truncate``: those of reference - T .. reference + T that exist, once. ``replicate``: the first and the last frame
    stand in for those before and after the video.
    """
    start, stop = max(0, reference - config.T), min(num_frames, reference + config.T + 1)
    copies = [1] * (stop - start)
    if config.video_ends == "replicate":
        copies[0] += max(0, config.T - reference)
        copies[-1] += max(0, reference + config.T - (num_frames - 1))
    return range(start, stop), copies
