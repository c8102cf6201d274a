"""Frames of a snippet, decoded ahead of their use, with bounded memory."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.spec import Dataset, Frame, Image, SnippetInfo

T = TypeVar("T")

FRAMES_A_READ = 32  # encoded frames asked for at once: one range request of shards, some MB
FRAMES_AHEAD = 8  # decoded frames waiting; one of 1280 x 720 is 2.8 MB


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame's pixels, or why there are none."""

    index: int
    image: Image | None
    seconds: float  # decoding took
    error: UserError | None = None

    def pixels(self) -> Image:
        """The image; raises the error of a frame that could not be decoded."""
        if self.image is None:
            assert self.error is not None
            raise self.error
        return self.image


def decoded_frames(dataset: Dataset, split: str, snippet: SnippetInfo, start: int = 0) -> Iterator[DecodedFrame]:
    """The frames of a snippet from ``start`` on, in order, decoded as they are asked for.

    A frame that does not decode comes as a ``DecodedFrame`` without image, so that the caller decides; errors of
    reading are raised.
    """
    for first in range(start, snippet.num_frames, FRAMES_A_READ):
        indices = range(first, min(first + FRAMES_A_READ, snippet.num_frames))
        for frame in dataset.read(split, snippet.id, indices):
            yield _decoded(frame, dataset.root)


def _decoded(frame: Frame, root: str) -> DecodedFrame:
    start = time.perf_counter()
    try:
        image = decode(frame.encoded, f"{root}: snippet {frame.snippet}, frame {frame.index}")
    except UserError as error:
        return DecodedFrame(frame.index, None, time.perf_counter() - start, error)
    return DecodedFrame(frame.index, image, time.perf_counter() - start)


def prefetched(items: Callable[[], Iterator[T]], ahead: int = FRAMES_AHEAD) -> Iterator[T]:
    """The items of ``items()``, made by a thread that keeps up to ``ahead`` of them ready.

    An exception of the maker is raised here, in its place. Leaving the loop early ends the thread.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None, bool]) -> None:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        error: BaseException | None = None
        try:
            for item in items():
                put((item, None, False))
                if stop.is_set():
                    return
        except BaseException as raised:  # noqa: BLE001  # raised again by the consumer
            error = raised
        put((None, error, True))

    thread = threading.Thread(target=make, name="vodbench-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]  # an item unless it is the last entry
    finally:
        stop.set()
        thread.join(timeout=5.0)
