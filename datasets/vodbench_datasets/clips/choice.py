"""Which frames a training stage visits: those with boxes, of still images or videos or both, or unlabelled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vodbench.errors import UserError
from vodbench.spec import ClipSpec, SnippetInfo

FRAMES_PER_SNIPPET = 15


class _Source(Protocol):
    @property
    def root(self) -> str: ...

    def snippets(self, split: str) -> Sequence[SnippetInfo]: ...

    def training_frames(self, split: str) -> list[tuple[str, int]]: ...


def reference_frames(dataset: _Source, clips: ClipSpec, split: str) -> list[tuple[str, int]]:
    """(snippet, index) of every frame that may be a clip's reference, in a fixed order.

    ``UserError`` when the split has none of the kind that ``clips.frames`` asks for.
    """
    if clips.frames == "unlabelled":
        frames = unlabelled_frames(dataset.snippets(split))
    else:
        frames = dataset.training_frames(split)
    if clips.frames in ("stills", "videos"):
        still = {snippet.id: snippet.still for snippet in dataset.snippets(split)}
        frames = [frame for frame in frames if still[frame[0]] == (clips.frames == "stills")]
    if not frames and clips.frames != "all":
        raise UserError(_NONE[clips.frames].format(split=split, root=dataset.root))
    return frames


def unlabelled_frames(snippets: Sequence[SnippetInfo]) -> list[tuple[str, int]]:
    """Evenly spaced frames of every video, chosen by their place alone: no annotation is read, none has a say."""
    return [
        (snippet.id, index)
        for snippet in snippets
        if not snippet.still
        for index in evenly_spaced(snippet.num_frames, FRAMES_PER_SNIPPET)
    ]


def evenly_spaced(num_frames: int, count: int) -> list[int]:
    """Middles of ``count`` equal parts of a snippet, all frames when it has no more.

    The same frames as VID_train_15frames.txt names: 10, 30, ..., 290 of a snippet of 300.
    """
    if num_frames <= count:
        return list(range(num_frames))
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


_NONE = {
    "stills": "split '{split}' of '{root}' has no still image with a box; add ImageNet DET (a list "
    "DET_train_30classes.txt), generate data with stills ('vodbench data generate OUT --stills N'), or train on all "
    "frames",
    "videos": "split '{split}' of '{root}' has no video with a box; add videos, or train on all frames",
    "unlabelled": "split '{split}' of '{root}' has no video to train on without labels; add videos",
}
