"""How a launched sweep is, in the same words whichever way it was launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

Say = Callable[[str], None]


class Phase(Enum):
    """What a sweep can be asked about."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        return self not in (Phase.STARTING, Phase.RUNNING)


@dataclass(frozen=True)
class Launched:
    """``detail``: what the cluster says itself, on one line."""

    name: str
    phase: Phase
    detail: str = ""

    def line(self) -> str:
        return f"{self.name}: {self.phase.value}" + (f" ({self.detail})" if self.detail else "")
