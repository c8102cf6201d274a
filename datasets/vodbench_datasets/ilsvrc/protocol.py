"""The papers' training set: 15 frames a video, at most 2,000 DET images a class, no frame without a box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

FRAMES_PER_SNIPPET = 15

_T = TypeVar("_T")


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """Middles of ``count`` equal parts of a snippet, all frames when it has no more.

    The same frames as VID_train_15frames.txt names: 10, 30, ..., 290 of a snippet of 300.
    """
    if num_frames <= count:
        return list(range(num_frames))
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def capped(items: Iterable[tuple[_T, str]], limit: int) -> Iterator[_T]:
    """Items in order, leaving out those whose group (the second of each pair) already had ``limit``."""
    seen: Counter[str] = Counter()
    for item, group in items:
        seen[group] += 1
        if seen[group] <= limit:
            yield item
