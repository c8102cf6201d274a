"""COCO and COCO-VID files: any detector's results can be judged.

Annotations: ``images`` (``id``; with video also ``video_id`` and ``frame_id``), ``categories`` (``id``, ``name``),
``annotations`` (``image_id``, ``category_id``, ``bbox`` [x, y, w, h]; ``iscrowd`` and ``instance_id`` where present).
Results: a list of ``image_id``, ``category_id``, ``bbox``, ``score``. Boxes become xyxy with x2 = x + w. Numbers keep
double precision, so that ties and thresholds fall as in pycocotools. Frames are ordered by image id, as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vodbench.detections import DetectionSet
from vodbench.errors import UserError
from vodbench.evaluation.overlap import Doubles, motion_iou
from vodbench.evaluation.truth import TruthSet
from vodbench.spec import ClassInfo, Ints
from vodbench.storage import read_bytes

Record: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoTruth:
    """Ground truth and its ids in the file: row f is image ``image_ids[f]``, label k is ``category_ids[k - 1]``."""

    truth: TruthSet
    image_ids: Ints  # (F,) ascending
    category_ids: Ints  # (C,) ascending
    where: str


def read_coco_truth(url: str) -> CocoTruth:
    """Read annotations. ``UserError`` naming the file and entry for anything that is not COCO."""
    content = _load(url)
    if not isinstance(content, dict):
        raise UserError(f"'{url}' holds a {type(content).__name__}, not COCO annotations: an object with images, ...")
    images, categories, annotations = (_entries(content, name, url) for name in ("images", "categories", "annotations"))
    image_ids, images = _by_id(images, f"'{url}' images")
    category_ids, categories = _by_id(categories, f"'{url}' categories")
    where = f"'{url}' annotations"
    row = _place(_integers(annotations, "image_id", where), image_ids, "image", where)
    label = _place(_integers(annotations, "category_id", where), category_ids, "category", where) + 1
    boxes = _boxes(annotations, where)
    order = np.argsort(row, kind="stable")
    row, label, boxes = row[order], label[order], boxes[order]
    snippet_ids, snippet, frame = _videos(images, image_ids, url)
    tracks = _tracks(annotations, images, where)
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool)
    truth = TruthSet(
        classes=tuple(ClassInfo(str(i), str(c.get("name", i))) for i, c in zip(category_ids, categories, strict=True)),
        snippet_ids=snippet_ids,
        snippet=snippet,
        frame=frame,
        offsets=_offsets(row, len(images)),
        boxes=boxes,
        labels=label.astype(np.int32),
        crowd=crowd[order],
        motion_iou=None if tracks is None else motion_iou(boxes, snippet[row], frame[row], tracks[order]),
    )
    return CocoTruth(truth=truth, image_ids=image_ids, category_ids=category_ids, where=url)


def read_coco_results(url: str, coco: CocoTruth) -> DetectionSet:
    """Read results; an image without any is one in which nothing was found.

    ``UserError`` for an image or category that the ground truth does not have, a score that is no finite number, or a
    malformed box.
    """
    content = _load(url)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise UserError(f"'{url}' is not a COCO result list: [{{image_id, category_id, bbox, score}}, ...]")
    where = f"'{url}' results"
    row = _place(_integers(content, "image_id", where), coco.image_ids, "image", where)
    label = _place(_integers(content, "category_id", where), coco.category_ids, "category", where) + 1
    order = np.argsort(row, kind="stable")
    return DetectionSet(
        snippet_ids=coco.truth.snippet_ids,
        snippet=coco.truth.snippet,
        frame=coco.truth.frame,
        offsets=_offsets(row, len(coco.image_ids)),
        boxes=_boxes(content, where)[order],
        scores=_scores(content, where)[order],
        labels=label[order].astype(np.int32),
    )


# ---- parts of a file ----------------------------------------------------------------------------------------


def _load(url: str) -> Any:
    content = read_bytes(url)
    try:
        return json.loads(content)
    except ValueError as error:  # also what is not UTF-8
        raise UserError(f"'{url}' is not valid JSON ({error}); give a COCO file") from error


def _entries(content: Record, name: str, url: str) -> list[Record]:
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"'{url}' has no list of {name}; COCO annotations hold images, categories and annotations")
    return entries


def _by_id(entries: Sequence[Record], where: str) -> tuple[Ints, list[Record]]:
    """(ids, entries) by ascending id; each id once."""
    if not entries:
        raise UserError(f"{where} is empty; nothing can be evaluated")
    ids = _integers(entries, "id", where)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise UserError(f"{where}: id {twice[0]} is there more than once; ids must be unique")
    return ids, [entries[i] for i in order]


def _integers(entries: Sequence[Record], key: str, where: str) -> Ints:
    for number, entry in enumerate(entries):
        if type(entry.get(key)) is not int or abs(entry[key]) > 2**53:
            raise UserError(f"{where}, entry {number}: {key} is {entry.get(key)!r}; it must be an integer")
    return np.array([entry[key] for entry in entries], np.int64)


def _place(ids: Ints, known: Ints, kind: str, where: str) -> Ints:
    """Where each id stands among the known ones."""
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    strange = np.flatnonzero(known[place] != ids)
    if len(strange):
        raise UserError(
            f"{where}, entry {strange[0]}: the ground truth has no {kind} {ids[strange[0]]} "
            f"(it has {len(known)}, {known[0]} to {known[-1]}; {len(strange)} such entries)"
        )
    return place


def _boxes(entries: Sequence[Record], where: str) -> Doubles:
    """(N, 4) xyxy."""
    for number, entry in enumerate(entries):
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
            raise UserError(f"{where}, entry {number}: bbox is {box!r}; it must be four numbers [x, y, w, h]")
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    bad = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
    if len(bad):
        raise UserError(
            f"{where}, entry {bad[0]}: bbox {boxes[bad[0]].tolist()} is not accepted; "
            "it must be finite numbers [x, y, w, h], w and h not negative"
        )
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _scores(entries: Sequence[Record], where: str) -> Doubles:
    for number, entry in enumerate(entries):
        if type(entry.get("score")) not in (int, float) or not np.isfinite(entry["score"]):
            raise UserError(f"{where}, entry {number}: score is {entry.get('score')!r}; it must be a finite number")
    return np.array([entry["score"] for entry in entries], np.float64)


def _offsets(row: Ints, num_frames: int) -> Ints:
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_frames))]).astype(np.int64)


def _videos(
    images: Sequence[Record], image_ids: Ints, url: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(snippet ids, snippet, frame) of each image; without ``video_id`` each image is a snippet of its own."""
    with_video = ["video_id" in image for image in images]
    if not any(with_video):
        num = len(images)
        return tuple(f"image {i}" for i in image_ids), np.arange(num, dtype=np.int32), np.zeros(num, np.int32)
    where = f"'{url}' images"
    videos, snippet = np.unique(_integers(images, "video_id", where), return_inverse=True)
    frame = _integers(images, "frame_id", where)
    keys = np.stack([snippet, frame])
    if frame.min() < 0 or np.unique(keys, axis=1).shape[1] < len(images):
        raise UserError(f"{where}: frame_id must be 0 or more and unique within its video_id")
    return tuple(f"video {v}" for v in videos), snippet.astype(np.int32), frame.astype(np.int32)


def _tracks(annotations: Sequence[Record], images: Sequence[Record], where: str) -> Ints | None:
    """(M,) instance ids; None where the file names no videos or no instances."""
    if "video_id" not in images[0] or not any("instance_id" in a for a in annotations):
        return None
    return _integers(annotations, "instance_id", where)
