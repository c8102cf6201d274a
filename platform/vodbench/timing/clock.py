"""Clocks: where a method's time goes, by stage, with the device synchronised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType

import torch

from vodbench.device import synchronize

_NOTHING = nullcontext()


class NullClock:
    """A clock that measures nothing, for passes that are timed end to end only."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        return _NOTHING


class StageClock:
    """Sums wall time by stage. Stages do not nest: a second one inside a first is a fault of the method.

    On an accelerator both ends of a stage wait for the device, so that queued work is charged to the stage that queued
    it. That costs overlap; ``measure_runtime`` therefore takes end-to-end times from passes without this clock there.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._seconds: dict[str, float] = {}
        self._running: str | None = None

    def stage(self, name: str) -> AbstractContextManager[None]:
        return _Stage(self, name)

    def take_ms(self) -> dict[str, float]:
        """Milliseconds by stage since the last call, in order of first use; the sums start again at nothing."""
        assert self._running is None, f"stage '{self._running}' is still running"
        taken = {name: 1e3 * seconds for name, seconds in self._seconds.items()}
        self._seconds = {}
        return taken


class _Stage:
    """One timed block. A plain class: entering a generator-based context manager costs twice as much."""

    __slots__ = ("_clock", "_name", "_start")

    def __init__(self, clock: StageClock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        clock = self._clock
        assert clock._running is None, (
            f"stage '{self._name}' starts inside stage '{clock._running}'; stages do not nest"
        )
        clock._running = self._name
        synchronize(clock._device)
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        clock = self._clock
        if kind is None:
            synchronize(clock._device)
        seconds = time.perf_counter() - self._start
        clock._seconds[self._name] = clock._seconds.get(self._name, 0.0) + seconds
        clock._running = None


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Compute with that many threads inside the block. Torch keeps the number for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
