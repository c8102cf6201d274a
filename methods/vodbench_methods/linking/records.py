"""What linking takes and gives: the boxes of one frame, and which of them stay with which score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vodbench.errors import unknown
from vodbench.spec import Detections, Ints

Doubles: TypeAlias = npt.NDArray[np.float64]
Real: TypeAlias = npt.NDArray[np.floating[Any]]
Integer: TypeAlias = npt.NDArray[np.integer[Any]]


def accepted(name: str, given: str, choices: Sequence[str]) -> str:
    """``given``, or ``UserError`` naming the nearest of ``choices``."""
    if given not in choices:
        raise unknown(name, given, choices)
    return given


@dataclass(frozen=True, slots=True, eq=False)
class FrameBoxes:
    """The scored boxes of one frame: before NMS for Seq-NMS, after it for tubes. N may be 0, order is free.

    ``proposal`` and ``relation`` are for box linking with relations alone. A frame's proposals are numbered 0..P-1 in
    the order of its detector; those it lends to its neighbours' pools come first (the K best of P).
    """

    boxes: Real  # (N, 4) xyxy, pixels
    scores: Real  # (N,) finite; [0, 1] for a detector's
    labels: Integer  # (N,) any integers; boxes of different labels never meet
    proposal: Integer | None = None  # (N,) the proposal each box came from, in 0..P-1
    # (P, K') attention of this frame's proposals (queries) on the K' that the *next* frame lends, mean over heads.
    # None: the next frame is not in this frame's pool, or does not exist.
    relation: Real | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        assert self.boxes.shape == (count, 4), f"{count} scores, but boxes of shape {self.boxes.shape}"
        assert self.scores.shape == self.labels.shape == (count,), "scores and labels are (N,) both"
        assert np.isfinite(self.boxes).all(), "boxes must be finite"
        assert np.isfinite(self.scores).all(), "scores must be finite"
        if self.proposal is not None:
            assert self.proposal.shape == (count,), f"{count} boxes came from {self.proposal.shape} proposals"
            assert not count or self.proposal.min() >= 0, "proposals are numbered from 0"
        if self.relation is not None:
            assert self.relation.ndim == 2, f"relation weights are (P, K), not {self.relation.shape}: mean over heads"
            assert self.proposal is not None, "relation weights need the proposal of every box"
            rows = len(self.relation)
            assert not count or self.proposal.max() < rows, f"relation weights cover {rows} proposals only"

    def __len__(self) -> int:
        return len(self.scores)

    def unlinked(self) -> Linked:
        """All boxes with their own scores."""
        count = len(self)
        return Linked(np.arange(count), self.scores.astype(np.float64), np.full(count, -1, np.int64))

    @staticmethod
    def from_class_scores(
        boxes: Real, class_scores: Real, *, threshold: float = 0.0, relation: Real | None = None
    ) -> FrameBoxes:
        """The candidates before NMS of P proposals: every (proposal, class) whose score exceeds ``threshold``.

        boxes (P, C, 4), one a class, or (P, 4), shared by all; class_scores (P, C) without the background. Class c
        becomes label c + 1. Ordered by proposal, then by label.
        """
        count, classes = class_scores.shape
        assert boxes.shape in ((count, 4), (count, classes, 4)), f"{class_scores.shape} scores, {boxes.shape} boxes"
        proposal, column = np.nonzero(class_scores > threshold)
        chosen = boxes[proposal] if boxes.ndim == 2 else boxes[proposal, column]
        labels = (column + 1).astype(np.int64)
        return FrameBoxes(chosen, class_scores[proposal, column], labels, proposal.astype(np.int64), relation)


@dataclass(frozen=True, slots=True, eq=False)
class Linked:
    """The boxes of one frame that stay: ``rows`` of its ``FrameBoxes``, ascending, with their new scores."""

    rows: Ints  # (M,)
    scores: Doubles  # (M,)
    path: Ints  # (M,) number of the path each box lies on, unique in the snippet; -1: on none

    def detections(self, frame: FrameBoxes, *, scale: float = 1.0, limit: int | None = None) -> Detections:
        """The ``limit`` best of them by descending score, scores multiplied by ``scale``."""
        order = np.argsort(-self.scores, kind="stable")[:limit]
        rows = self.rows[order]
        return Detections(
            frame.boxes[rows].astype(np.float32),
            (self.scores[order] * scale).astype(np.float32),
            frame.labels[rows].astype(np.int64),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Snippet:
    """All frames' boxes one after another, N in all."""

    boxes: Doubles  # (N, 4)
    scores: Doubles  # (N,)
    frame: Ints  # (N,) ascending
    offsets: Ints  # (T + 1,) frame t is rows offsets[t]..offsets[t + 1] - 1
    classes: tuple[Ints, ...]  # of each label, ascending: its rows, ascending

    @staticmethod
    def of(frames: Sequence[FrameBoxes]) -> Snippet:
        sizes = np.array([len(f) for f in frames], np.int64)
        labels = np.concatenate([f.labels for f in frames] or [np.zeros(0, np.int64)])
        order = np.argsort(labels, kind="stable")
        cuts = np.flatnonzero(np.diff(labels[order])) + 1
        return Snippet(
            boxes=np.concatenate([f.boxes for f in frames] or [np.zeros((0, 4))]).astype(np.float64),
            scores=np.concatenate([f.scores for f in frames] or [np.zeros(0)]).astype(np.float64),
            frame=np.repeat(np.arange(len(frames)), sizes),
            offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            classes=tuple(np.split(order, cuts)) if len(labels) else (),
        )

    @property
    def num_frames(self) -> int:
        return len(self.offsets) - 1

    def linked(self, kept: npt.NDArray[np.bool_], scores: Doubles, path: Ints) -> list[Linked]:
        """Frame by frame: the ``kept`` (N,) rows with their new ``scores`` (N,) and ``path`` (N,)."""
        found = []
        for first, stop in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            rows = np.flatnonzero(kept[first:stop])
            found.append(Linked(rows, scores[first:stop][rows], path[first:stop][rows]))
        return found
