"""Pictures and clips of the right size that show nothing: enough to measure what a step takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from vodbench.data_source import DataSource
from vodbench.images import decode
from vodbench.registry import data_tool
from vodbench.spec import Clip, ClipFrame, ClipSpec, Image, Truth
from vodbench.studies import Study

IMAGENET_VID_SIZE = (720, 1280)  # height, width of most of its videos
_OBJECTS = 3


def picture_size(study: Study) -> tuple[int, int]:
    """(height, width) of the study's frames: those of its data, else of what it generates, else of ImageNet VID."""
    if study.data.root is not None:
        dataset = DataSource(root=study.data.root, kind=study.data.dataset, options=study.data.options).open()
        info = next(info for info in dataset.snippets(study.data.val) if info.num_frames)
        image = decode(dataset.read(study.data.val, info.id, [0])[0].encoded, study.data.root)
        return image.shape[0], image.shape[1]
    if study.data.generate is not None:
        size = int(data_tool("generator_config")(study.data.generate).size)
        return size, size
    return IMAGENET_VID_SIZE


def picture(size: tuple[int, int], seed: int) -> Image:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def clips_of(spec: ClipSpec, size: tuple[int, int], num_classes: int) -> Iterator[Clip]:
    """Endless clips as a stage asks for them: groups, flow, or no annotation where it wants that."""
    for number in count():
        category = None
        if spec.categories:
            category = 1 + number % spec.group_size // spec.videos % num_classes
        supports = tuple(_frame(spec, size, number + 1 + s, category, flow=spec.flow) for s in range(spec.num_supports))
        yield Clip(
            number=number,
            snippet=f"made up {number}",
            reference=_frame(spec, size, number, category, flow=False),
            supports=supports,
            flip=bool(number % 2),
            category=category,
        )


def _frame(spec: ClipSpec, size: tuple[int, int], seed: int, category: int | None, *, flow: bool) -> ClipFrame:
    truth = Truth.empty() if spec.frames == "unlabelled" else _truth(size, seed, category)
    still = np.zeros((*size, 2), np.float32) if flow else None
    return ClipFrame(index=seed, image=picture(size, seed), truth=truth, flow=still)


def _truth(size: tuple[int, int], seed: int, category: int | None) -> Truth:
    """Boxes of a fifth to half of the picture, as objects of ImageNet VID are."""
    rng = np.random.default_rng(seed)
    height, width = size
    corner = rng.uniform(0, 0.5, (_OBJECTS, 2)) * [width, height]
    extent = rng.uniform(0.2, 0.5, (_OBJECTS, 2)) * [width, height]
    labels = np.full(_OBJECTS, category or 1, np.int64)
    flags = np.zeros(_OBJECTS, np.bool_)
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    return Truth(boxes, labels, np.arange(_OBJECTS, dtype=np.int64), flags, flags)
