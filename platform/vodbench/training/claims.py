"""Who trains: of several processes that need the same weights, one does and the others wait for its result.

On a local file system the claim is a lock on a file, which the kernel frees when its holder dies, however it dies. On
an object store it is a small object with a heartbeat; one that has not been renewed for ``STALE_S`` is free. Two
processes that race for a free object may, in an unlucky interleaving with a slow store, both train: that wastes time
and harms nothing, since they compute the same weights and write them whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fsspec.implementations.local import LocalFileSystem

from vodbench.storage import filesystem, write_text

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
    hold = _lock_file(path) if isinstance(fs, LocalFileSystem) else _heartbeat(url)
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
def _heartbeat(url: str) -> Iterator[Callable[[], bool]]:
    owner = uuid.uuid4().hex
    ended = threading.Event()
    beating: list[threading.Thread] = []

    def write() -> None:
        write_text(url, json.dumps({"owner": owner, "time": time.time()}))

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            write()

    def acquire() -> bool:
        if _holder(url) not in (None, owner):
            return False
        write()
        ended.wait(SETTLE_S)  # let a competitor's write land: the last writer wins, and everybody sees who that is
        if _holder(url) != owner:
            return False
        beating.append(threading.Thread(target=beat, daemon=True))
        beating[0].start()
        return True

    try:
        yield acquire
    finally:
        ended.set()
        if beating:
            beating[0].join()
            fs, path = filesystem(url)
            fs.rm_file(path)


def _holder(url: str) -> str | None:
    """The owner of a live claim."""
    fs, path = filesystem(url)
    try:  # not "exists, then read": its holder may give it back in between
        held = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return None
    return str(held["owner"]) if time.time() - held["time"] < STALE_S else None
