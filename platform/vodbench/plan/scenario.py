"""How a simulated sweep is run, and what is left to chance in it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How a sweep is run, and what goes wrong.

    ``measuring_nodes``: on which trials' processes sit. ``straggle``: deviation of the logarithm of each worker's time
    in a piece of work, whose mean stays. ``mtbf_s``: of one node (exponential), None: none fails; it is back after
    ``repair_s``, and what its work did since the last checkpoint (every ``checkpoint_s``) is done again.
    """

    at_once: int = 1
    measuring_nodes: int = 1
    straggle: float = 0.0
    mtbf_s: float | None = None
    repair_s: float = 600.0
    checkpoint_s: float = 15.0
    seed: int = 0

    @property
    def certain(self) -> bool:
        """Whether every run of it is the same."""
        return not self.straggle and self.mtbf_s is None

    def chance(self, name: str) -> random.Random:
        """What is left to chance for that name: the same whatever runs beside it."""
        return random.Random(f"{self.seed}/{name}")

    def slowest(self, name: str, workers: int) -> float:
        """Factor on the time of a training, whose workers wait for each other."""
        return max(self._factors(name, workers))

    def average(self, name: str, workers: int) -> float:
        """Of a pass, whose workers take the next snippets when they are ready: how fast they are together counts."""
        return workers / sum(1 / factor for factor in self._factors(name, workers))

    def _factors(self, name: str, workers: int) -> list[float]:
        """Of each worker's time."""
        chance = self.chance(name)
        return [math.exp(self.straggle * chance.gauss() - self.straggle**2 / 2) for _ in range(workers)]
