"""Running a command while something strikes at seeded random moments, until it has ended well."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Protocol

from faults_study import Command

STARTS = 40  # of one command; more, and it does not get on
POLL_S = 0.05
AGAIN_S = 0.2  # until the next try, where there was nothing to hit


class Fault(Protocol):
    """Something that happens to a running sweep."""

    name: str
    pause_s: tuple[float, float]  # from one strike to the next, drawn evenly

    def strike(self, command: Command, rng: random.Random) -> bool:
        """Do it now; False where there is nothing to hit at this moment."""
        ...

    def mend(self) -> None:
        """Bring back what the sweep itself cannot: a server, a node."""
        ...


class StuckError(Exception):
    """The same command does not finish the study."""


def disturb(
    command: Command, fault: Fault, times: int, rng: random.Random, limit_s: float, look: Callable[[], None]
) -> int:
    """Give the command until it ends well, struck at most ``times`` on the way; how often it was.

    ``look`` is called before each strike and after each end: what is finished then must stay as it is.

    Raises:
        StuckError: it did not end well in ``STARTS`` starts, or in ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    struck = 0
    try:
        for _ in range(STARTS):
            command.start()
            due = time.monotonic() + rng.uniform(*fault.pause_s)
            while command.running:
                if time.monotonic() > deadline:
                    raise StuckError(f"not done in {limit_s:.0f} s; {_tail(command)}")
                if struck < times and time.monotonic() >= due:
                    look()
                    hit = fault.strike(command, rng)
                    struck += hit
                    due = time.monotonic() + (rng.uniform(*fault.pause_s) if hit else AGAIN_S)
                time.sleep(POLL_S)
            fault.mend()
            look()
            if command.ended_well():
                return struck
        raise StuckError(f"{STARTS} starts did not finish it; {_tail(command)}")
    finally:
        command.end()
        fault.mend()


def _tail(command: Command) -> str:
    return "it had said: " + command.place.log.read_text(errors="replace")[-2000:]
