"""Working ahead in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vodbench.prefetch import prefetch


def test_prefetch_hands_over_everything_in_order() -> None:
    assert list(prefetch(lambda: iter(range(100)), 3)) == list(range(100))


def test_prefetch_raises_where_the_items_are_used() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise KeyError("late")

    items = prefetch(work, 3)
    assert next(items) == 1
    with pytest.raises(KeyError, match="late"):
        next(items)


def test_prefetch_runs_no_further_ahead_than_asked() -> None:
    made: list[int] = []

    def work() -> Iterator[int]:
        for item in range(100):
            made.append(item)
            yield item

    items = prefetch(work, 4)
    assert next(items) == 0
    items.close()
    assert len(made) <= 1 + 4 + 1  # handed over, queued, in the thread's hand


def test_closing_prefetch_closes_what_it_reads() -> None:
    closed = threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    items = prefetch(work, 2)
    next(items)
    items.close()
    assert closed.is_set()
