"""Ground truth of a split as flat arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vodbench.errors import UserError, unknown
from vodbench.evaluation.overlap import Boxes, Doubles, motion_iou
from vodbench.spec import Bools, ClassInfo, Dataset, Floats, Frame, Ints

READERS = 8  # annotation files are small: reading them is waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthSet:
    """The annotated objects of F frames, M in all; frame f owns rows ``offsets[f]:offsets[f + 1]``."""

    classes: tuple[ClassInfo, ...]
    snippet_ids: tuple[str, ...]
    snippet: npt.NDArray[np.int32]  # (F,) index into snippet_ids
    frame: npt.NDArray[np.int32]  # (F,) position in its snippet
    offsets: Ints  # (F + 1,)
    boxes: Boxes  # (M, 4) xyxy
    labels: npt.NDArray[np.int32]  # (M,) 1..C
    crowd: Bools  # (M,) regions whose detections are neither right nor wrong (COCO's iscrowd)
    motion_iou: Doubles | None = None  # (M,); None without tracks
    deteriorations: Mapping[str, Floats] = field(default_factory=dict)  # name -> (F,) strength, 0 where absent
    fingerprint: str = ""  # of the data; empty where unknown

    def __len__(self) -> int:
        """Number of frames F."""
        return len(self.frame)

    @property
    def frame_of_box(self) -> Ints:
        """(M,) the row of the frame each object is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def frames_with(self, deterioration: str) -> Bools:
        """(F,) frames that have it. "any": one or another; "none": none of them."""
        if deterioration in self.deteriorations:
            return self.deteriorations[deterioration] > 0
        any_of = np.zeros(len(self), bool)
        for strength in self.deteriorations.values():
            any_of |= strength > 0
        if deterioration in ("any", "none"):
            return any_of if deterioration == "any" else ~any_of
        raise unknown("deterioration", deterioration, ["any", "none", *self.deteriorations])


def truth_set(dataset: Dataset, split: str, snippets: Collection[str] | None = None) -> TruthSet:
    """Read the annotations of a split, or of some of its snippets. ``UserError`` for a snippet that it has not."""
    listed = {info.id: info for info in dataset.snippets(split)}
    for name in snippets or ():
        if name not in listed:
            raise UserError(f"split '{split}' has no snippet '{name}'; it has {len(listed)}: {_some(list(listed))}")
    wanted = [name for name in listed if snippets is None or name in set(snippets)]
    with ThreadPoolExecutor(READERS) as readers:
        read = list(readers.map(lambda name: dataset.read(split, name, with_images=False), wanted))
    return from_frames(dataset.classes, wanted, read, dataset.fingerprint)


def from_frames(
    classes: tuple[ClassInfo, ...], snippet_ids: Sequence[str], read: Sequence[Sequence[Frame]], fingerprint: str
) -> TruthSet:
    """Flatten the frames of each snippet."""
    frames = [frame for of_snippet in read for frame in of_snippet]
    snippet = np.repeat(np.arange(len(read), dtype=np.int32), [len(r) for r in read])
    index = np.array([f.index for f in frames], np.int32)
    counts = np.array([len(f.truth.labels) for f in frames], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(f.truth.boxes.reshape(-1, 4) for f in frames)])
    tracks = np.concatenate([np.zeros(0, np.int64), *(f.truth.track_ids for f in frames)])
    names = sorted({name for f in frames for name in f.deteriorations})
    return TruthSet(
        classes=classes,
        snippet_ids=tuple(snippet_ids),
        snippet=snippet,
        frame=index,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=boxes,
        labels=np.concatenate([np.zeros(0, np.int64), *(f.truth.labels for f in frames)]).astype(np.int32),
        crowd=np.zeros(len(boxes), bool),
        motion_iou=motion_iou(boxes, np.repeat(snippet, counts), np.repeat(index, counts), tracks),
        deteriorations={n: np.array([f.deteriorations.get(n, 0.0) for f in frames], np.float32) for n in names},
        fingerprint=fingerprint,
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
