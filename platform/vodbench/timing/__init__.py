"""Honest runtime: stage clocks, contention, the gate that keeps other work away, and the measurement itself."""

from vodbench.timing.clock import NullClock, StageClock
from vodbench.timing.gate import measuring, working
from vodbench.timing.runtime import measure_runtime

__all__ = ["NullClock", "StageClock", "measure_runtime", "measuring", "working"]
