"""What can happen to a sweep: processes that are killed, by their name, at a moment of chance."""

from __future__ import annotations

import random

import psutil
from faults_study import Command


class KilledDriver:
    """The process of ``vodbench sweep``."""

    name = "driver"

    def __init__(self, pause_s: tuple[float, float]) -> None:
        self.pause_s = pause_s

    def strike(self, command: Command, rng: random.Random) -> bool:
        left = command.descendants()
        command.kill()
        psutil.wait_procs(left, timeout=60)
        return True

    def mend(self) -> None:
        """The next start is all it needs."""


class KilledWorker:
    """One of the processes of its Ray whose title begins like this."""

    def __init__(self, name: str, title: str, pause_s: tuple[float, float]) -> None:
        self.name, self.pause_s = name, pause_s
        self._title = title

    def strike(self, command: Command, rng: random.Random) -> bool:
        victims = [p for p in command.descendants() if title_of(p).startswith(self._title)]
        if not victims:
            return False
        try:
            rng.choice(victims).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def mend(self) -> None:
        """Ray starts another one."""


def title_of(process: psutil.Process) -> str:
    """What a process calls itself; nothing once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
