"""What benchmarks of methods share: a call's time, and how far two frames' detections are apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from vodbench.device import synchronize
from vodbench.spec import Detections

Result = TypeVar("Result")

EXACT = 1e-3  # pixels, and a hundredth of it in score: single precision, summed in another order


def timed(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Milliseconds until the device has done ``work``, and what came of it."""
    synchronize(device)
    started = time.perf_counter()
    result = work()
    synchronize(device)
    return 1e3 * (time.perf_counter() - started), result


def largest_difference(got: Detections, wanted: Detections) -> float:
    """The largest difference of boxes in pixels, or a hundred times that of scores; infinite when others were found."""
    if len(got.boxes) != len(wanted.boxes) or not np.array_equal(got.labels, wanted.labels):
        return float("inf")
    if not len(got.boxes):
        return 0.0
    return float(max(np.abs(got.boxes - wanted.boxes).max(), 100 * np.abs(got.scores - wanted.scores).max()))


def assert_exact(difference: float, what: str) -> None:
    """``RuntimeError`` where a fast way gives other detections than the plain one."""
    if difference > EXACT:
        raise RuntimeError(f"{what} differs by {difference}; the speed of a wrong result means nothing")
