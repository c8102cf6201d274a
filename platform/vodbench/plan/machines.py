"""The machines of a simulated sweep, and what became of their time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Ledger:
    """Slot-seconds by what became of them; their sum is slots x time."""

    useful: float = 0.0
    measuring: float = 0.0
    starting: float = 0.0
    standing: float = 0.0  # held, but nothing moved: a measurement beside it, or slow storage
    lost: float = 0.0  # computed, and computed again after a failure
    idle: float = 0.0
    down: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(vars(self).values()))


@dataclass(frozen=True, kw_only=True)
class Machines:
    """``storage_bytes_s``: what all readers get together; None: no limit."""

    nodes: int
    slots_a_node: int
    storage_bytes_s: float | None = None

    @property
    def slots(self) -> int:
        return self.nodes * self.slots_a_node
