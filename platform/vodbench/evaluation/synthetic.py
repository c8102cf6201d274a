"""Ground truth and detections of any size, drawn at random: for benchmarks and tests of the evaluation itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vodbench.detections import DetectionSet
from vodbench.evaluation.overlap import Doubles, motion_iou
from vodbench.evaluation.truth import TruthSet
from vodbench.spec import ClassInfo, Floats, Ints

WIDTH, HEIGHT = 1280.0, 720.0
_FRAMES_AT_ONCE = 8192


def synthetic(
    *,
    num_snippets: int,
    num_frames: int,
    num_detections: int,
    num_classes: int = 30,
    max_objects: int = 3,
    seed: int = 0,
) -> tuple[TruthSet, DetectionSet]:
    """Drifting objects and a detector that is right most of the time.

    Args:
        num_frames: a snippet. num_detections: a frame. Nine in ten objects get one good detection of high score; a
            third of all detections lie near an object, half of them naming its class; the others lie anywhere.
        max_objects: 1..max_objects a snippet, each with a class of its own draw.
    """
    rng = np.random.default_rng(seed)
    total = num_snippets * num_frames
    objects = rng.integers(1, max_objects + 1, num_snippets)
    snippet = np.repeat(np.arange(num_snippets, dtype=np.int32), num_frames)
    frame = np.tile(np.arange(num_frames, dtype=np.int32), num_snippets)
    offsets = np.concatenate([[0], np.cumsum(objects[snippet])]).astype(np.int64)
    box_frame = np.repeat(np.arange(total), objects[snippet])
    track = np.arange(offsets[-1]) - offsets[box_frame]
    track_row = (np.cumsum(objects) - objects)[snippet[box_frame]] + track
    track_label = rng.integers(1, num_classes + 1, objects.sum()).astype(np.int32)
    boxes = _drifting(rng, int(objects.sum()), track_row, frame[box_frame])
    truth = TruthSet(
        classes=tuple(ClassInfo(f"n{n:08d}", f"class {n}") for n in range(1, num_classes + 1)),
        snippet_ids=tuple(f"snippet {n:04d}" for n in range(num_snippets)),
        snippet=snippet,
        frame=frame,
        offsets=offsets,
        boxes=boxes.astype(np.float32),
        labels=track_label[track_row],
        crowd=np.zeros(len(boxes), bool),
        motion_iou=motion_iou(boxes, snippet[box_frame], frame[box_frame], track),
    )
    return truth, _detected(rng, truth, num_detections)


def _drifting(rng: np.random.Generator, num_tracks: int, track_row: Ints, frame: npt.NDArray[np.int32]) -> Doubles:
    """(M, 4) boxes of tracks that start anywhere and drift at speeds from none to several pixels a frame."""
    sides = np.exp(rng.uniform(np.log(20), np.log(400), (num_tracks, 2)))
    start = rng.uniform(0, 1, (num_tracks, 2)) * [WIDTH, HEIGHT]
    speed = rng.normal(0, 1, (num_tracks, 2)) * rng.choice([0.2, 2.0, 8.0], (num_tracks, 1))
    corner = start[track_row] + speed[track_row] * frame[:, None]
    return np.concatenate([corner, corner + sides[track_row]], axis=1)


def _detected(rng: np.random.Generator, truth: TruthSet, num_detections: int) -> DetectionSet:
    num = len(truth) * num_detections
    boxes, scores, labels = np.empty((num, 4), np.float32), np.empty(num, np.float32), np.empty(num, np.int32)
    for first in range(0, len(truth), _FRAMES_AT_ONCE):
        stop = min(first + _FRAMES_AT_ONCE, len(truth))
        rows = slice(first * num_detections, stop * num_detections)
        boxes[rows], scores[rows], labels[rows] = _detected_in(rng, truth, num_detections, first, stop)
    return DetectionSet(
        snippet_ids=truth.snippet_ids,
        snippet=truth.snippet,
        frame=truth.frame,
        offsets=np.arange(len(truth) + 1, dtype=np.int64) * num_detections,
        boxes=boxes,
        scores=scores,
        labels=labels,
    )


def _detected_in(
    rng: np.random.Generator, truth: TruthSet, num_detections: int, first: int, stop: int
) -> tuple[Floats, Floats, npt.NDArray[np.int32]]:
    """(boxes, scores, labels) of frames first..stop - 1."""
    num = (stop - first) * num_detections
    frame = np.repeat(np.arange(first, stop), num_detections)
    rank = np.tile(np.arange(num_detections), stop - first)
    count = np.diff(truth.offsets)[frame]
    near = rank < max(1, num_detections // 3)
    target = truth.offsets[frame] + rank % np.maximum(count, 1)
    meant = near & (rank < count) & (rng.random(num, np.float32) < 0.9)  # the one meant for its object
    corner = rng.random((num, 2), np.float32) * np.array([WIDTH, HEIGHT], np.float32)
    boxes = np.concatenate([corner, corner + rng.random((num, 2), np.float32) * 300], axis=1)
    spread = np.where(meant, np.float32(0.05), np.float32(0.2))[near]
    objects = truth.boxes[target[near]].astype(np.float32)
    sides = np.tile(objects[:, 2:] - objects[:, :2], 2)
    boxes[near] = objects + sides * rng.standard_normal((len(objects), 4), np.float32) * spread[:, None]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    named = meant | (near & (rng.random(num, np.float32) < 0.5))
    labels = rng.integers(1, len(truth.classes) + 1, num, dtype=np.int32)
    labels[named] = truth.labels[target[named]]
    scores = rng.random(num, np.float32) ** np.where(meant, np.float32(0.4), np.float32(40))
    return boxes, scores, labels
