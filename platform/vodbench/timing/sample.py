"""The snippets that a measurement runs on, decoded beforehand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

from vodbench.errors import UserError
from vodbench.reading import decoded_frames
from vodbench.spec import Dataset, Image, SnippetInfo, Truth

KEPT_BYTES = 2 * 2**30  # decoded frames kept in memory; what is beyond is decoded between pushes


class Frames(Protocol):
    """What a measurement needs of its frames."""

    snippets: list[SnippetInfo]
    decode_seconds: list[float]  # of each frame decoded beforehand; empty for frames that were not decoded

    def annotated(self, snippet: SnippetInfo) -> Iterator[tuple[Image, Truth]]: ...


class Sample:
    """Snippets in listed order, with their pixels.

    Frames are decoded before anything is timed, so that neither a decoder's threads nor its use of the caches disturb a
    pass. Of a sample larger than ``kept_bytes`` the last frames are decoded between the pushes instead. Frames that do
    not decode are left out when ``skip_bad`` is set, as an accuracy pass does; else they raise ``UserError``.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        snippets: list[SnippetInfo],
        *,
        skip_bad: bool = False,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.snippets = snippets
        self.decode_seconds: list[float] = []  # of each frame decoded beforehand
        self._dataset, self._split, self._skip_bad = dataset, split, skip_bad
        self._kept: dict[str, list[tuple[Image, Truth]]] = {s.id: [] for s in snippets}
        self._rest: dict[str, int] = {s.id: s.num_frames for s in snippets}  # first frame that is not kept
        room = kept_bytes
        for snippet in snippets:
            for index, seconds, image, truth in self._decoded(snippet, 0):
                if room <= 0:
                    self._rest[snippet.id] = index
                    break
                self._kept[snippet.id].append((image, truth))
                self.decode_seconds.append(seconds)
                room -= image.nbytes
        if not self.decode_seconds:
            raise UserError(
                f"none of the sampled snippets of '{dataset.root}' has a frame that decodes; check the data with "
                "'vodbench data verify'"
            )

    def annotated(self, snippet: SnippetInfo) -> Iterator[tuple[Image, Truth]]:
        """The snippet's frames in order, with their annotation."""
        yield from self._kept[snippet.id]
        for _, _, image, truth in self._decoded(snippet, self._rest[snippet.id]):
            yield image, truth

    def _decoded(self, snippet: SnippetInfo, start: int) -> Iterator[tuple[int, float, Image, Truth]]:
        for frame in decoded_frames(self._dataset, self._split, snippet, start):
            if frame.image is None and self._skip_bad:
                continue
            yield frame.index, frame.seconds, frame.pixels(), frame.truth


def sample_snippets(dataset: Dataset, split: str, number: int, seed: int) -> list[SnippetInfo]:
    """``number`` snippets in listed order, drawn without replacement: videos, or stills where there is no video."""
    everything = [s for s in dataset.snippets(split) if s.num_frames > 0]
    pool = [s for s in everything if not s.still] or everything
    if not pool:
        raise UserError(
            f"split '{split}' of '{dataset.root}' has no frames to measure on; give another split or data root"
        )
    chosen = random.Random(seed).sample(range(len(pool)), min(number, len(pool)))
    return [pool[i] for i in sorted(chosen)]
