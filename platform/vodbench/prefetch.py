"""Work ahead in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

THREAD = "vodbench-prefetch"  # the name of the threads that work ahead


class _End(Generic[T]):
    """What the thread puts last: the error that stopped it, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(make: Callable[[], Iterator[T]], depth: int) -> Generator[T, None, None]:
    """The items of ``make()``, produced up to ``depth`` ahead by a thread of their own.

    The iterator is created, advanced and closed inside that thread, and nothing starts before the first item is
    asked for. An error surfaces where the items are consumed. Closing this generator stops the thread.
    """
    items: queue.Queue[T | _End[T]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: T | _End[T]) -> bool:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        error: BaseException | None = None
        iterator = None
        try:
            iterator = make()
            for item in iterator:
                if not offer(item):
                    break
        except BaseException as caught:  # noqa: BLE001 - handed to the consumer, who raises it
            error = caught
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            offer(_End(error))

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()
