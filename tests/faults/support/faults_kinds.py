"""What can happen to a sweep: processes that are killed, by their name, at a moment of chance."""

from __future__ import annotations

import random
import time

import psutil
from faults_study import Command

# Ray's title of a process that does something for a sweep.
WORK = ("ray::ImplicitFunc", "ray::RayTrainWorker", "ray::TrainController", "ray::_run", "ray::ReadChunk")


class KilledDriver:
    """The process of ``vodbench sweep``: one time in four as it starts, else when its workers have been at work for
    up to ``after_s``. (Starting takes longer than a small study: most moments of chance would lie there.)"""

    name = "driver"

    def __init__(self, pause_s: tuple[float, float], after_s: float) -> None:
        self.pause_s, self._after_s = pause_s, after_s
        self._start = 0  # that this was drawn for:
        self._after: float | None = None  # seconds at work before it; None: at once
        self._since: float | None = None  # when work was seen

    def strike(self, command: Command, rng: random.Random) -> bool:
        if self._start != command.starts:
            self._start, self._since = command.starts, None
            self._after = None if rng.random() < 0.25 else rng.uniform(0.0, self._after_s)
        if self._after is not None and not self._worked(command.descendants(), self._after):
            return False
        command.kill()  # and the next start does not wait for its workers to notice: nobody would
        return True

    def _worked(self, processes: list[psutil.Process], seconds: float) -> bool:
        if self._since is None and any(title_of(process).startswith(WORK) for process in processes):
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= seconds

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
