"""The papers' training set: 15 frames a video (``clips.choice``), at most 2,000 DET images a class, no frame without a
box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def capped(items: Iterable[tuple[_T, str]], limit: int) -> Iterator[_T]:
    """Items in order, leaving out those whose group (the second of each pair) already had ``limit``."""
    seen: Counter[str] = Counter()
    for item, group in items:
        seen[group] += 1
        if seen[group] <= limit:
            yield item
