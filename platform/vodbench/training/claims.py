"""Who trains: of several processes that need the same weights, one does and the others wait for its result.

On a local file system the claim is a lock on a file, which the kernel frees when its holder dies, however it dies.

On an object store a claim is a folder of small objects, numbered: the one of the highest number holds, as long as its
owner renews it (a heartbeat). Who finds no holder, or one whose heartbeat has not changed for ``STALE_S``, makes the
next number. Stores that write on condition (``If-None-Match``: S3 and its gateways, Google, Azure) let one of several
do that, so two never hold; where a store ignores the condition, the last writer does, after ``SETTLE_S``. Nothing
compares the clocks of two machines. A holder that stood still for ``STALE_S`` and wakes up works beside its successor:
that wastes time and harms nothing, since both compute the same weights and write them whole.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import posixpath
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from vodbench.storage import filesystem

_log = logging.getLogger(__name__)

POLL_S = 0.5
HEARTBEAT_S = 10.0
STALE_S = 60.0
SETTLE_S = 1.0


@contextmanager
def claim(url: str, finished: Callable[[], bool], poll_s: float = POLL_S) -> Iterator[bool]:
    """Hold the claim ``url`` for the body, waiting for whoever holds it.

    Yields True when the claim is held, and False when ``finished()`` became true: somebody else did the work.
    """
    fs, path = filesystem(url)
    hold = _lock_file(path) if isinstance(fs, LocalFileSystem) else _heartbeat(fs, path, finished)
    with hold as acquire:
        while not finished():
            if acquire():
                # The holder before us may have finished between the two questions.
                yield not finished()
                return
            time.sleep(poll_s)
        yield False


@contextmanager
def _lock_file(path: str) -> Iterator[Callable[[], bool]]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Never unlinked: a waiter could then hold a lock on a file that the next comer no longer sees.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield acquire
    finally:
        os.close(descriptor)


@contextmanager
def _heartbeat(fs: Any, folder: str, finished: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    candidate = _Candidate(fs, folder, finished)
    try:
        yield candidate.acquire
    finally:
        candidate.release()


class _Candidate:
    """One process that wants the claim, or has it."""

    def __init__(self, fs: Any, folder: str, finished: Callable[[], bool]) -> None:
        self._fs, self._folder, self._finished = fs, folder, finished
        self._owner = uuid.uuid4().hex
        self._number = 0  # of the object that is ours; 0: none
        self._beats = 0
        self._seen: tuple[int, bytes] | None = None  # the holder as it was when it last changed,
        self._since = 0.0  # and when that was, by our own clock
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the claim if nobody lives who holds it."""
        number = max(self._numbers(), default=0)
        if number and self._lives(number):
            return False
        try:
            self._fs.makedirs(self._folder, exist_ok=True)
            self._fs.pipe_file(self._path(number + 1), self._sign(), mode="create")
        except OSError as error:  # whatever a store makes of 409 and 412: what counts is who is there now
            owner = _values(self._content(number + 1)).get("owner")
            if owner is None and not isinstance(error, FileExistsError):  # it existed, and may be gone by now
                raise
            if owner != self._owner:
                return False
        self._ended.wait(SETTLE_S)  # let a competitor's write land, where the store let it pass
        if _values(self._content(number + 1)).get("owner") != self._owner:
            return False
        self._number = number + 1
        self._thread = threading.Thread(target=self._beat, name="vodbench-claim", daemon=True)
        self._thread.start()
        return True

    def release(self) -> None:
        """Give the claim back. While there is work left its object stays, so that numbers only rise."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join()
        with self._forgiving("given back"):
            self._write(released=True)
            gone = self._number if self._finished() else self._number - 1
            for number in (n for n in self._numbers() if n <= gone):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(number))

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with self._forgiving("renewed"):
                self._write(released=False)

    def _write(self, *, released: bool) -> None:
        self._fs.pipe_file(self._path(self._number), self._sign(released=released))

    @contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """A store that fails for a moment ends no work: a claim outlasts missed beats, and at last its holder."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - every store raises its own
            _log.warning("claim '%s' could not be %s (%s: %s)", self._folder, what, type(error).__name__, error)

    def _lives(self, number: int) -> bool:
        """Whether that holder was seen to change within ``STALE_S``, or is seen for the first time."""
        content = self._content(number)
        if content is None or _values(content).get("released"):
            return False
        if self._seen != (number, content):
            self._seen, self._since = (number, content), time.monotonic()
        return time.monotonic() - self._since < STALE_S

    def _numbers(self) -> list[int]:
        self._fs.invalidate_cache(self._folder)  # others write here
        try:
            names = [path.rpartition("/")[2] for path in self._fs.ls(self._folder, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def _content(self, number: int) -> bytes | None:
        try:  # not "exists, then read": a later holder may tidy it up in between
            return bytes(self._fs.cat_file(self._path(number)))
        except FileNotFoundError:
            return None

    def _sign(self, *, released: bool = False) -> bytes:
        """Different each time, so that others see it change."""
        self._beats += 1
        values = {"owner": self._owner, "beat": self._beats, "host": socket.gethostname(), "released": released}
        return json.dumps(values).encode()

    def _path(self, number: int) -> str:
        return posixpath.join(self._folder, f"{number:06d}")


def _values(content: bytes | None) -> dict[str, Any]:
    """What an object says; nothing where it is absent or, on a store that writes in place, half written."""
    try:
        values = json.loads(content or b"")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
