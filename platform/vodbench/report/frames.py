"""Frames on which two methods differ, drawn side by side."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vodbench.detections import DetectionSet
from vodbench.drawing import draw
from vodbench.evaluation.overlap import pair_overlap
from vodbench.images import decode, encode_jpeg
from vodbench.spec import Dataset, Detections, Frame, Image, Truth

# A box a reader would see drawn; below it a detector is not claiming anything.
SHOWN_SCORE = 0.3
_MIN_IOU = 0.5
_MIN_WIDTH = 320  # smaller frames are enlarged, or their captions cannot be read


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One frame with the boxes of the truth and of two methods; images are data URIs."""

    snippet: str
    frame: int
    deteriorations: str
    truth: str
    first: str
    second: str
    first_correct: int
    second_correct: int
    first_wrong: int
    second_wrong: int


def compare_frames(
    dataset: Dataset, split: str, first: DetectionSet, second: DetectionSet, *, better: int = 4, worse: int = 2
) -> list[Comparison]:
    """The frames where ``second`` gains most over ``first``, then those where it loses most, one a snippet.

    Both directions are shown, so that the page is no advertisement. A frame's gain is the difference in
    (correct - wrong) boxes shown; frames of equal gain are taken in listed order.
    """
    gains: list[tuple[int, str, int]] = []
    for snippet in dataset.snippets(split):
        best = _extremes(dataset, split, snippet.id, first, second)
        gains.extend(best)
    rising = sorted(gains, key=lambda gain: gain[0])
    chosen = _one_a_snippet([g for g in reversed(rising) if g[0] > 0], better)
    taken = {snippet for _, snippet, _ in chosen}
    chosen += _one_a_snippet([g for g in rising if g[0] < 0 and g[1] not in taken], worse)
    return [_drawn(dataset, split, snippet, index, first, second) for _, snippet, index in chosen]


def judge(truth: Truth, found: Detections) -> tuple[int, int]:
    """(correct, wrong) among the boxes shown: greedy by score, IoU 0.5, same class."""
    free = np.ones(len(truth.labels), bool)
    correct = wrong = 0
    for box, label in zip(found.boxes, found.labels, strict=True):
        everywhere = np.broadcast_to(box, truth.boxes.shape)
        overlap = pair_overlap(everywhere, truth.boxes, extra=0) * free * (truth.labels == label)
        best = int(overlap.argmax()) if len(overlap) else -1
        if best >= 0 and overlap[best] >= _MIN_IOU:
            free[best] = False
            correct += 1
        else:
            wrong += 1
    return correct, wrong


def _extremes(
    dataset: Dataset, split: str, snippet: str, first: DetectionSet, second: DetectionSet
) -> list[tuple[int, str, int]]:
    """The snippet's frame of greatest gain and of greatest loss."""
    rows = {int(second.frame[row]): int(row) for row in second.rows_of(snippet)}
    pairs = [(int(first.frame[row]), int(row)) for row in first.rows_of(snippet)]
    pairs = [(index, row) for index, row in pairs if index in rows]
    if not pairs:
        return []
    frames = dataset.read(split, snippet, [index for index, _ in pairs], with_images=False)
    gains = []
    for (index, row), frame in zip(pairs, frames, strict=True):
        before, after = (judge(frame.truth, shown(s.detections(r))) for s, r in ((first, row), (second, rows[index])))
        gains.append((after[0] - after[1] - before[0] + before[1], snippet, index))
    return [max(gains, key=lambda g: g[0]), min(gains, key=lambda g: g[0])]


def shown(found: Detections) -> Detections:
    keep = found.scores >= SHOWN_SCORE
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])


def _one_a_snippet(gains: Sequence[tuple[int, str, int]], limit: int) -> list[tuple[int, str, int]]:
    seen: dict[str, tuple[int, str, int]] = {}
    for gain in gains:
        seen.setdefault(gain[1], gain)
    return list(seen.values())[:limit]


def _drawn(
    dataset: Dataset, split: str, snippet: str, index: int, first: DetectionSet, second: DetectionSet
) -> Comparison:
    frame = dataset.read(split, snippet, [index])[0]
    image = decode(frame.encoded, f"{snippet} frame {index}")
    names = [info.name for info in dataset.classes]
    found = [shown(_at(s, snippet, index)) for s in (first, second)]
    scores = [judge(frame.truth, d) for d in found]
    truth = Detections(frame.truth.boxes, np.ones(len(frame.truth.labels), np.float32), frame.truth.labels)
    return Comparison(
        snippet=snippet,
        frame=index,
        deteriorations=_words(frame),
        truth=_picture(image, truth, names, with_scores=False),
        first=_picture(image, found[0], names),
        second=_picture(image, found[1], names),
        first_correct=scores[0][0],
        first_wrong=scores[0][1],
        second_correct=scores[1][0],
        second_wrong=scores[1][1],
    )


def _at(detections: DetectionSet, snippet: str, index: int) -> Detections:
    rows = detections.rows_of(snippet)
    return detections.detections(int(rows[detections.frame[rows] == index][0]))


def _words(frame: Frame) -> str:
    return ", ".join(f"{name} {strength:.2f}" for name, strength in frame.deteriorations.items())


def _picture(image: Image, found: Detections, names: Sequence[str], *, with_scores: bool = True) -> str:
    labels = [names[label - 1] for label in found.labels]
    scores = found.scores if with_scores else None
    drawn = draw(image, found.boxes, labels, scores, min_width=_MIN_WIDTH)
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(drawn)).decode()
