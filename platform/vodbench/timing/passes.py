"""One timed pass of a snippet through a method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from vodbench.device import synchronize
from vodbench.spec import Clock, Image, Stream
from vodbench.timing.attribution import frame_costs
from vodbench.timing.clock import NullClock, StageClock
from vodbench.timing.contention import CpuCount, cpu_share

StartStream = Callable[[Clock], Stream]

OTHER = "other"  # time inside push and close, but outside every stage


@dataclass(frozen=True, slots=True)
class Pass:
    """What one snippet cost. Times in milliseconds, decoding excluded."""

    frame_ms: npt.NDArray[np.float64]  # (F,) see ``frame_costs``
    stage_ms: dict[str, float]  # of the whole snippet; empty without a stage clock
    latency_frames: int  # most frames that were owed at once
    cpu_share: float | None  # lowest meaning: something else had the CPU

    @property
    def total_ms(self) -> float:
        return float(self.frame_ms.sum())


@dataclass(slots=True)
class _Timer:
    """Adds up calls and what they used, leaving out what happens between them (decoding)."""

    device: torch.device
    threads: int
    used: float = 0.0
    asked: float | None = 0.0
    seconds: list[float] = field(default_factory=list)

    def start(self) -> tuple[float, CpuCount]:
        synchronize(self.device)
        return time.perf_counter(), CpuCount.read(self.threads)

    def stop(self, started: tuple[float, CpuCount]) -> None:
        synchronize(self.device)
        seconds, cpu = time.perf_counter() - started[0], CpuCount.read(self.threads)
        self.seconds.append(seconds)
        self.used += cpu.used - started[1].used
        known = self.asked is not None and cpu.asked is not None and started[1].asked is not None
        self.asked = self.asked + cpu.asked - started[1].asked if known else None  # type: ignore[operator]

    def share(self) -> float | None:
        return cpu_share(CpuCount(0.0, 0.0), CpuCount(self.used, self.asked))


def timed_pass(
    start: StartStream,
    images: Iterable[Image],
    device: torch.device,
    *,
    threads: int = 1,
    stages: bool = True,
) -> Pass:
    """Stream one snippet, frame by frame, and time every ``push`` and the ``close``.

    The device is synchronised before and after each call. What drawing the next image costs is not counted.
    """
    stage_clock = StageClock(device) if stages else None
    clock: Clock = stage_clock or NullClock()
    timer = _Timer(device, threads)
    returned: list[int] = []
    lag = 0
    with torch.inference_mode():
        stream = start(clock)
        for image in images:
            started = timer.start()
            found = stream.push(image)
            timer.stop(started)
            returned.append(len(found))
            lag = max(lag, len(returned) - sum(returned))
        started = timer.start()
        last = stream.close()
        timer.stop(started)
    if sum(returned) + len(last) != len(returned):
        raise AssertionError(
            f"{type(stream).__name__} took {len(returned)} frames and returned detections of "
            f"{sum(returned) + len(last)}"
        )
    *pushes, close = (1e3 * s for s in timer.seconds)
    split = stage_clock.take_ms() if stage_clock else {}
    if stage_clock:
        split[OTHER] = max(sum(pushes) + close - sum(split.values()), 0.0)
    return Pass(frame_costs(pushes, returned, close), split, lag, timer.share())
