"""Constraints of a study: what a trial's figures must keep to, such as ``runtime_ms <= 30``.

Figures have the names that MLflow shows them under.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.errors import unknown
from vodbench.records import Accuracy, Runtime, TrialRecord

FIGURES: Mapping[str, Callable[[Accuracy, Runtime], float | None]] = {
    "map": lambda accuracy, _: accuracy.map,
    "map_low": lambda accuracy, _: accuracy.low,
    "map_slow": lambda accuracy, _: accuracy.motion.get("slow"),
    "map_medium": lambda accuracy, _: accuracy.motion.get("medium"),
    "map_fast": lambda accuracy, _: accuracy.motion.get("fast"),
    "runtime_ms": lambda _, runtime: runtime.mean_ms,
    "runtime_high_ms": lambda _, runtime: runtime.high_ms,
    "runtime_median_ms": lambda _, runtime: runtime.median_ms,
    "runtime_p95_ms": lambda _, runtime: runtime.p95_ms,
    "runtime_p99_ms": lambda _, runtime: runtime.p99_ms,
    "fps": lambda _, runtime: runtime.fps,
    "gflops": lambda _, runtime: runtime.gflops,
    "peak_memory_mb": lambda _, runtime: runtime.peak_memory_mb,
    # A result that is final only when the snippet ends has no bound.
    "latency_frames": lambda _, runtime: math.inf if runtime.latency_frames is None else runtime.latency_frames,
}

_WRITTEN = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\deE]+)\s*")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A figure of ``FIGURES`` and its bound; written ``map >= 0.6``."""

    figure: str
    sign: str  # "<=" or ">="
    limit: float

    def __str__(self) -> str:
        return f"{self.figure} {self.sign} {self.limit:g}"

    def violation(self, record: TrialRecord) -> float:
        """How far the record lies beyond the limit, as a share of it; at most 0 where it keeps to it.

        Infinite for a record without the figure: what is not known is not promised.
        """
        if record.accuracy is None or record.runtime is None:
            return math.inf
        value = FIGURES[self.figure](record.accuracy, record.runtime)
        if value is None or math.isnan(value):
            return math.inf
        beyond = value - self.limit if self.sign == "<=" else self.limit - value
        return beyond / (abs(self.limit) or 1.0)


def violated(record: TrialRecord, constraints: Sequence[Constraint]) -> list[Constraint]:
    """The constraints that a record does not keep to."""
    return [constraint for constraint in constraints if constraint.violation(record) > 0]


def parse_constraint(written: Any) -> Constraint:
    """``runtime_ms <= 30`` as a constraint. ``ValueError`` for anything else, ``UserError`` for an unknown figure."""
    if isinstance(written, Constraint):
        return written
    parts = _WRITTEN.fullmatch(written) if isinstance(written, str) else None
    try:
        figure, sign, limit = parts.groups() if parts else ("", "", "")
        bound = float(limit)
    except ValueError:
        raise ValueError(
            f"{written!r} is no constraint; give a figure, <= or >=, and a number, such as 'runtime_ms <= 30'"
        ) from None
    if figure not in FIGURES:
        raise unknown("figure", figure, FIGURES)
    return Constraint(figure, sign, bound)
