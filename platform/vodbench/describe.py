"""What a data set holds, split by split: the facts to look at before training on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image

from vodbench.errors import UserError, unknown
from vodbench.spec import Dataset, Frame, SnippetInfo


@dataclass
class SplitFacts:
    """Counts over one split. Sizes of pictures are those of each snippet's first frame."""

    snippets: int = 0
    stills: int = 0
    frames: int = 0
    frames_without_boxes: int = 0
    boxes: int = 0
    tracks: int = 0
    occluded_boxes: int = 0
    generated_boxes: int = 0
    lengths: list[int] = field(default_factory=list)  # frames of each video (stills left out)
    box_sizes: list[float] = field(default_factory=list)  # sqrt(area) in pixels of each box
    boxes_of_label: Counter[int] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)  # "width x height" -> snippets
    strengths: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # one a frame

    def add(self, info: SnippetInfo, frames: Sequence[Frame], picture: str | None) -> None:
        """Count one snippet."""
        self.snippets += 1
        self.stills += info.still
        self.frames += len(frames)
        if not info.still:
            self.lengths.append(len(frames))
        if picture is not None:
            self.pictures[picture] += 1
        self.tracks += len({int(track) for frame in frames for track in frame.truth.track_ids})
        for frame in frames:
            self._add_frame(frame)

    def _add_frame(self, frame: Frame) -> None:
        truth = frame.truth
        self.boxes += len(truth.labels)
        self.frames_without_boxes += not len(truth.labels)
        self.occluded_boxes += int(truth.occluded.sum())
        self.generated_boxes += int(truth.generated.sum())
        self.boxes_of_label.update(truth.labels.tolist())
        sides = np.maximum(truth.boxes[:, 2:] - truth.boxes[:, :2], 0)
        self.box_sizes += np.sqrt(sides.prod(axis=1)).tolist()
        for name, strength in frame.deteriorations.items():
            self.strengths[name].append(strength)

    def as_dict(self, dataset: Dataset) -> dict[str, Any]:
        """Plain values under readable names; classes in the data set's order, all of them."""
        return {
            "snippets": self.snippets,
            "stills": self.stills,
            "frames": self.frames,
            "frames_without_boxes": self.frames_without_boxes,
            "boxes": self.boxes,
            "tracks": self.tracks,
            "occluded_boxes": self.occluded_boxes,
            "generated_boxes": self.generated_boxes,
            "frames_per_video": _spread(self.lengths),
            "box_size_px": _spread(self.box_sizes),
            "picture_sizes": dict(self.pictures.most_common()),
            "boxes_per_class": {
                info.name: self.boxes_of_label[label] for label, info in enumerate(dataset.classes, start=1)
            },
            "deteriorations": {
                name: {"frames": len(values), "mean_strength": round(float(np.mean(values)), 3)}
                for name, values in sorted(self.strengths.items())
            },
        }


def describe(
    dataset: Dataset, splits: Sequence[str], on_progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Facts of each split, as plain values. Every annotation is read, and the first image of every snippet.

    Raises:
        UserError: an unknown split; an annotation or image that cannot be read.
    """
    for split in splits:
        if split not in dataset.splits:
            raise unknown("split", split, dataset.splits)
    snippets = {split: list(dataset.snippets(split)) for split in splits}
    total = sum(map(len, snippets.values()))
    done = 0
    described = {}
    for split, infos in snippets.items():
        facts = SplitFacts()
        for info in infos:
            facts.add(info, dataset.read(split, info.id, with_images=False), _picture_size(dataset, split, info))
            done += 1
            if on_progress is not None:
                on_progress(done, total)
        described[split] = facts.as_dict(dataset)
    return described


def _picture_size(dataset: Dataset, split: str, info: SnippetInfo) -> str | None:
    """From the image's header: nothing is decoded."""
    if not info.num_frames:
        return None
    (first,) = dataset.read(split, info.id, [0])
    try:
        with PIL.Image.open(BytesIO(first.encoded)) as image:
            return f"{image.width} x {image.height}"
    except (PIL.UnidentifiedImageError, OSError) as error:
        raise UserError(f"the first frame of snippet '{info.id}' ({split}) is no image: restore the file") from error


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Smallest, median and largest; None when there are none."""
    if not values:
        return None
    low, middle, high = (round(float(value), 1) for value in np.percentile(values, [0, 50, 100]))
    return {"min": low, "median": middle, "max": high}
