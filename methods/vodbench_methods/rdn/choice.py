"""How many proposals r percent are."""

from __future__ import annotations


def count_best(count: int, r: float) -> int:
    """How many of ``count`` proposals r% are: rounded down, but one at least where there is any."""
    return min(count, max(1, int(count * r / 100.0 + 1e-6)))
