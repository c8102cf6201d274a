"""Runtime is never measured beside other work of ours: one gate a node, for all processes of a user.

Work that keeps the machine busy (training, accuracy passes) holds the gate with others: ``with working(): ...``. A
runtime measurement holds it alone: ``with measuring(): ...``. The gate is a pair of ``flock`` locks on node-local
files, so a process that dies, however it dies, lets go of it.

Only the process that does the work holds the gate: one that holds ``working()`` and waits for another process that
asks for it stands still as soon as somebody wants to measure.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT = "VODBENCH_GATE"  # folder of the lock files; the default is below the node's temporary folder

_mutex = threading.Lock()
_held: dict[str, list[int]] = {"working": [], "measuring": []}  # open lock files
_depth = {"working": 0, "measuring": 0}


@contextmanager
def working() -> Iterator[None]:
    """Hold the gate together with all other work; waits while somebody measures or waits to measure.

    May be nested, and entered by several threads: a process holds the gate once.
    """
    if _depth["measuring"]:  # a measurement's own work
        yield
        return
    with _entered("working"):
        yield


@contextmanager
def measuring() -> Iterator[None]:
    """Hold the gate alone; waits until all work has left. New work waits behind it, so its turn comes.

    May be nested. ``AssertionError`` when this process holds ``working()``: it would wait for itself.
    """
    with _entered("measuring"):
        yield


@contextmanager
def _entered(kind: str) -> Iterator[None]:
    with _mutex:
        other = "working" if kind == "measuring" else "measuring"
        assert not _depth[other], f"{kind}() inside {other}() of the same process would wait for itself"
        if _depth[kind] == 0:
            _held[kind] = _acquire(exclusive=kind == "measuring")
        _depth[kind] += 1
    try:
        yield
    finally:
        with _mutex:
            _depth[kind] -= 1
            if _depth[kind] == 0:
                _release(kind)


def _acquire(*, exclusive: bool) -> list[int]:
    """Through the turnstile into the room. Who measures stays in the turnstile, so that nobody new gets past."""
    folder = gate_folder()
    turnstile = _lock(folder / "turnstile", fcntl.LOCK_EX)
    try:
        room = _lock(folder / "room", fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    except BaseException:
        os.close(turnstile)
        raise
    if exclusive:
        return [room, turnstile]
    os.close(turnstile)
    return [room]


def _lock(path: Path, operation: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, operation)
    except BaseException:
        os.close(file)
        raise
    return file


def _release(kind: str) -> None:
    while _held[kind]:
        os.close(_held[kind].pop())


def gate_folder() -> Path:
    """Where this user's lock files are on this node."""
    folder = Path(os.environ.get(ENVIRONMENT) or Path(tempfile.gettempdir()) / f"vodbench-gate-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _forget_after_fork() -> None:
    """A forked child shares the parent's open files: it would keep the gate shut after the parent's death."""
    global _mutex
    _mutex = threading.Lock()
    for kind in _held:
        _release(kind)  # closing the child's copy leaves the parent's lock alone; unlocking it would not
        _depth[kind] = 0


os.register_at_fork(after_in_child=_forget_after_fork)
