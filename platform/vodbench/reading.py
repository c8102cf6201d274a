"""Frames of snippets, decoded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.spec import Dataset, Frame, Image, SnippetInfo, Truth

FRAMES_A_READ = 32  # encoded frames asked for at once: one range request of shards, some MB
FRAMES_AHEAD = 8  # decoded frames waiting; one of 1280 x 720 is 2.8 MB


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame's pixels, or why there are none."""

    snippet: str
    index: int
    image: Image | None
    seconds: float  # decoding took
    truth: Truth
    error: UserError | None = None

    def pixels(self) -> Image:
        """The image; raises the error of a frame that could not be decoded."""
        if self.image is None:
            assert self.error is not None
            raise self.error
        return self.image


def read_frames(dataset: Dataset, split: str, snippets: Sequence[SnippetInfo], start: int = 0) -> Iterator[Frame]:
    """The encoded frames of whole snippets in order (of each from ``start`` on), read in this process."""
    for snippet in snippets:
        for first in range(start, snippet.num_frames, FRAMES_A_READ):
            indices = range(first, min(first + FRAMES_A_READ, snippet.num_frames))
            yield from dataset.read(split, snippet.id, indices)


def decoded(frames: Iterable[Frame], root: str) -> Iterator[DecodedFrame]:
    """The same frames, decoded as they are asked for.

    A frame that does not decode comes as a ``DecodedFrame`` without image, so that the caller decides; errors of
    reading are raised. ``root`` names the data in messages.
    """
    for frame in frames:
        yield _decoded(frame, root)


def decoded_frames(dataset: Dataset, split: str, snippet: SnippetInfo, start: int = 0) -> Iterator[DecodedFrame]:
    """The frames of one snippet from ``start`` on, in order, read and decoded as they are asked for."""
    return decoded(read_frames(dataset, split, [snippet], start), dataset.root)


def _decoded(frame: Frame, root: str) -> DecodedFrame:
    start = time.perf_counter()
    try:
        image = decode(frame.encoded, f"{root}: snippet {frame.snippet}, frame {frame.index}")
    except UserError as error:
        return DecodedFrame(frame.snippet, frame.index, None, time.perf_counter() - start, frame.truth, error)
    return DecodedFrame(frame.snippet, frame.index, image, time.perf_counter() - start, frame.truth)
