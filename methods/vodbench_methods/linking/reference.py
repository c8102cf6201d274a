"""The three ways of linking read literally, box by box in plain Python: what the fast ones are tested against.

Everything is computed anew for every path, as the published code does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vodbench_methods.linking.records import FrameBoxes, Linked


@dataclass(slots=True, eq=False)
class _Box:
    corners: list[float]
    score: float
    row: int  # in its frame
    proposal: int = -1
    new_score: float = 0.0
    path: int = -1
    gone: bool = False  # suppressed or dropped


def overlap(a: _Box, b: _Box, extent: float) -> float:
    """IoU in [0, 1]."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.corners, b.corners
    width = max(min(ax2, bx2) - max(ax1, bx1) + extent, 0.0)
    height = max(min(ay2, by2) - max(ay1, by1) + extent, 0.0)
    inter = width * height
    if inter <= 0:
        return 0.0
    area_a = (ax2 - ax1 + extent) * (ay2 - ay1 + extent)
    area_b = (bx2 - bx1 + extent) * (by2 - by1 + extent)
    return inter / (area_a + area_b - inter)


def plain_seq_nms(
    frames: Sequence[FrameBoxes],
    *,
    link_iou: float = 0.5,
    suppress_iou: float = 0.3,
    rescore: str = "mean",
    leftovers: str = "keep",
    min_sum: float = 0.01,
    extent: float = 1.0,
) -> list[Linked]:
    """See ``seq_nms``."""
    video = _boxes(frames)
    paths = 0
    for label in _labels(frames):
        own = [boxes.get(label, []) for boxes in video]
        links = [
            [[j for j, b in enumerate(after) if overlap(a, b, extent) >= link_iou] for a in now]
            for now, after in pairwise(own)
        ]
        done = [[False] * len(boxes) for boxes in own]  # on a path, or suppressed
        while True:
            start, path, total = _best_sum(own, links, done)
            linked = any(targets for frame in links for targets in frame)
            if not path or (leftovers == "keep" and (total < min_sum or not linked)):
                break
            scores = [own[start + n][i].score for n, i in enumerate(path)]
            for n, i in enumerate(path):
                box = own[start + n][i]
                box.new_score = total / len(path) if rescore == "mean" else max(scores)
                box.path = paths if len(path) > 1 else -1
                for j, other in enumerate(own[start + n]):
                    if j == i or (not done[start + n][j] and overlap(box, other, extent) >= suppress_iou):
                        other.gone = j != i
                        done[start + n][j] = True
                        _unlink(links, start + n, j)
            paths += 1
    return _collect(video)


def _best_sum(
    own: list[list[_Box]], links: list[list[list[int]]], done: list[list[bool]]
) -> tuple[int, list[int], float]:
    """(first frame, index in each frame, sum of scores) of the best path; no path when nothing is left."""
    value = [[box.score for box in boxes] for boxes in own]
    back = [[-1] * len(boxes) for boxes in own]
    for t, frame in enumerate(links):
        for i, targets in enumerate(frame):
            for j in targets:
                if value[t][i] + own[t + 1][j].score > value[t + 1][j]:
                    value[t + 1][j] = value[t][i] + own[t + 1][j].score
                    back[t + 1][j] = i
    best, end = -math.inf, (-1, -1)
    for t, values in enumerate(value):
        for i, total in enumerate(values):
            if not done[t][i] and total > best:
                best, end = total, (t, i)
    if end[0] < 0:
        return 0, [], 0.0
    (t, i), path = end, [end[1]]
    while back[t][i] >= 0:
        t, i = t - 1, back[t][i]
        path.insert(0, i)
    return t, path, best


def _unlink(links: list[list[list[int]]], t: int, j: int) -> None:
    if t < len(links):
        links[t][j] = []
    if t > 0:
        for targets in links[t - 1]:
            if j in targets:
                targets.remove(j)


def plain_tube(frames: Sequence[FrameBoxes], *, unlinked: str = "keep", extent: float = 1.0) -> list[Linked]:
    """See ``tube``."""
    return _plain_tubes(frames, unlinked, extent, with_relations=False)


def plain_blr(frames: Sequence[FrameBoxes], *, unlinked: str = "keep", extent: float = 1.0) -> list[Linked]:
    """See ``blr``."""
    return _plain_tubes(frames, unlinked, extent, with_relations=True)


def _plain_tubes(frames: Sequence[FrameBoxes], unlinked: str, extent: float, with_relations: bool) -> list[Linked]:
    video = _boxes(frames)
    paths = 0
    for label in _labels(frames):
        left = [(t, list(boxes.get(label, []))) for t, boxes in enumerate(video)]
        if unlinked == "drop":
            left = [(t, boxes) for t, boxes in left if boxes]
        while True:
            runs = [left] if unlinked == "drop" else _runs(left)
            if not runs or not all(boxes for _, boxes in runs[0]):
                break
            for run in runs:
                path = _best_edges(run, frames, extent, with_relations)
                top = sorted((box.score for box in path), reverse=True)[: math.ceil(len(path) / 2)]
                for box, (_, boxes) in zip(path, run, strict=True):
                    box.new_score, box.path = box.score + sum(top) / len(top), paths
                    boxes.remove(box)
                paths += 1
        if unlinked == "drop":
            for _, boxes in left:
                for box in boxes:
                    box.gone = True
    return _collect(video)


def _runs(left: list[tuple[int, list[_Box]]]) -> list[list[tuple[int, list[_Box]]]]:
    """Runs of at least two frames that have boxes left."""
    runs: list[list[tuple[int, list[_Box]]]] = [[]]
    for t, boxes in left:
        if boxes:
            runs[-1].append((t, boxes))
        else:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _best_edges(
    run: list[tuple[int, list[_Box]]], frames: Sequence[FrameBoxes], extent: float, with_relations: bool
) -> list[_Box]:
    """The path through all frames of the run with the largest sum of edges; of equals, the first box."""
    value = [0.0] * len(run[-1][1])
    choices: list[list[int]] = []
    for (t, now), (u, after) in zip(run[-2::-1], run[:0:-1], strict=True):
        choice, new = [], []
        for a in now:
            totals = []
            for j, b in enumerate(after):
                edge = a.score + b.score + overlap(a, b, extent)
                if with_relations:
                    edge *= float(np.exp(_relation(frames, t, u, a, b)))
                totals.append(edge + value[j])
            choice.append(totals.index(max(totals)))
            new.append(max(totals))
        value = new
        choices.insert(0, choice)
    index = value.index(max(value))
    path = [run[0][1][index]]
    for choice, (_, boxes) in zip(choices, run[1:], strict=True):
        index = choice[index]
        path.append(boxes[index])
    return path


def _relation(frames: Sequence[FrameBoxes], t: int, u: int, a: _Box, b: _Box) -> float:
    weights = frames[t].relation
    if weights is None or u != t + 1 or b.proposal >= weights.shape[1]:
        return 0.0
    return float(weights[a.proposal, b.proposal])


def _boxes(frames: Sequence[FrameBoxes]) -> list[dict[int, list[_Box]]]:
    """Frame by frame and label by label."""
    video = []
    for frame in frames:
        found: dict[int, list[_Box]] = {}
        rows = zip(frame.boxes.tolist(), frame.scores.tolist(), frame.labels.tolist(), strict=True)
        for row, (corners, score, label) in enumerate(rows):
            proposal = -1 if frame.proposal is None else int(frame.proposal[row])
            found.setdefault(label, []).append(_Box(corners, score, row, proposal, new_score=score))
        video.append(found)
    return video


def _labels(frames: Sequence[FrameBoxes]) -> list[int]:
    return sorted({int(label) for frame in frames for label in frame.labels})


def _collect(video: list[dict[int, list[_Box]]]) -> list[Linked]:
    found = []
    for frame in video:
        kept = sorted((b for boxes in frame.values() for b in boxes if not b.gone), key=lambda box: box.row)
        found.append(
            Linked(
                np.array([b.row for b in kept], np.int64),
                np.array([b.new_score for b in kept], np.float64),
                np.array([b.path for b in kept], np.int64),
            )
        )
    return found
