"""Tubes: the boxes of a class joined through the snippet by Viterbi's algorithm, without and with relations.

Every box of a frame has an edge to every box of its class in the next. The path with the largest sum of edges is taken
(``viterbi``), its boxes removed, and so on; every box of a path gains the mean of the path's best half of scores
(ceil(L / 2) of L, Detect & Track's code; RDN, Section 3.4, takes it over). Scores grow to at most twice the best.

What is decided here
--------------------
- Edges without relations are s_i + s_j + iou, those of Action Tubes (Gkioxari and Malik 2015) with lambda = 1. Detect &
  Track adds 1 where its tracker agrees instead of the IoU; without a tracker its edge would know nothing of places.
  RDN's edge (Eq. 8) is the same times exp(w), so that ``blr`` without relation weights is ``tube``.
- Relation weights are mean weights over heads, of frame t's proposal (query) on frame t + 1's, in the last module of
  the basic stage; the paper names neither module, head nor direction. A detection has the weight of the proposal it
  came from. A proposal that the next frame does not lend, and a frame whose next is not in its pool, have weight 0:
  a factor of 1.
- w is a share of a softmax over the whole pool, as the module has it (Eq. 1-2), so that the factor is close to 1, and
  the closer the larger the pool. Behind RDN on generated video (108 members) it is 1.01 at the median, between boxes of
  one object and of two of a class alike, and mAP is ``tube``'s. Shares normalised again over the next frame (1.08) or
  of the first module changed it by no more than chance, shares relative to the row's largest lowered it: none is
  offered. ``studies/gains-relation.yaml`` has the figures.
- Eq. 9 divides a path's sum by the number of frames. All paths that compete with one another are equally long here, so
  that changes nothing.
- No detection is lost. A frame without a box of the class divides the snippet, and a frame whose boxes are used up
  divides the next round: tubes join consecutive frames only. A box without a box of its class in the frame before or
  after it keeps its score.
- ``unlinked="drop"`` is the published code instead: frames without the class are left out, so that a tube jumps over
  them (with weight 0 in ``blr``); tubes go through all other frames of the snippet; when a frame's boxes are used up,
  all boxes that are left are dropped. Where one frame alone has the class, its boxes are tubes of length one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from vodbench.errors import UserError
from vodbench.spec import Bools, Ints
from vodbench_methods.linking.overlap import PAIRS_AT_ONCE, padded, padded_rows, pairwise_overlap
from vodbench_methods.linking.records import Doubles, FrameBoxes, Linked, Real, Snippet, accepted
from vodbench_methods.linking.viterbi import Lattice, take_paths

Unlinked = Literal["keep", "drop"]

# Edges held at a time (256 MB), where classes can be taken one after another.
MAX_EDGES = 2**25


def tube(frames: Sequence[FrameBoxes], *, unlinked: Unlinked = "keep", extent: float = 1.0) -> list[Linked]:
    """Viterbi tubes over the frames of one snippet, given after NMS; one record a frame.

    Args:
        unlinked: ``keep`` or ``drop`` boxes that no tube takes; ``drop`` is the published code's way (see above).
            ``UserError`` for anything else.
        extent: what a width adds to ``x2 - x1``.
    """
    return _link(frames, unlinked, extent, with_relations=False)


def blr(frames: Sequence[FrameBoxes], *, unlinked: Unlinked = "keep", extent: float = 1.0) -> list[Linked]:
    """Box linking with relations (RDN, Eq. 8-9): ``tube`` with edges (s_i + s_j + iou) * exp(w_ij).

    ``UserError`` when several frames come without any relation weight.
    """
    if len(frames) > 1 and all(frame.relation is None for frame in frames):
        raise UserError(
            f"linking 'blr' needs relation weights, and none of the {len(frames)} frames has any: "
            "use a method with relation modules and a window of more than one frame, or linking 'tube'"
        )
    for now, after in pairwise(frames):
        assert now.relation is None or after.proposal is not None, "relation weights need the next frame's proposals"
    return _link(frames, unlinked, extent, with_relations=True)


def _link(frames: Sequence[FrameBoxes], unlinked: Unlinked, extent: float, with_relations: bool) -> list[Linked]:
    accepted("unlinked", unlinked, get_args(Unlinked))
    snippet = Snippet.of(frames)
    path = np.full(len(snippet.scores), -1, np.int64)
    paths = 0
    for tables in _batches(snippet, skip_empty=unlinked == "drop"):
        rows = _beside(tables)
        edges = _edges(snippet, rows, extent)
        if with_relations:
            _relate(edges, frames, snippet, rows)
        paths = _take_all(Lattice.of(rows, edges), tables, path, paths, whole=unlinked == "drop")
    kept = path >= 0 if unlinked == "drop" else np.ones(len(path), np.bool_)
    return snippet.linked(kept, _rescored(snippet.scores, path), path)


def _batches(snippet: Snippet, skip_empty: bool) -> Iterator[list[Ints]]:
    """Tables (T, n) of rows, one a class, of similar n together, so that little is padded."""
    tables = [padded_rows(rows, snippet.frame[rows], snippet.num_frames) for rows in snippet.classes]
    if skip_empty:
        tables = [table[table[:, 0] >= 0] for table in tables]
    batch: list[Ints] = []
    for table in sorted(tables, key=lambda t: -t.shape[1]):
        if batch:
            width = batch[0].shape[1]
            if 2 * table.shape[1] < width or (len(batch) + 1) * snippet.num_frames * width**2 > MAX_EDGES:
                yield batch
                batch = []
        batch.append(table)
    if batch:
        yield batch


def _beside(tables: Sequence[Ints]) -> Ints:
    """(S, B, n): the tables beside one another, padded with -1."""
    rows = np.full((max(len(t) for t in tables), len(tables), tables[0].shape[1]), -1, np.int64)
    for b, table in enumerate(tables):
        rows[: len(table), b, : table.shape[1]] = table
    return rows


def _edges(snippet: Snippet, rows: Ints, extent: float) -> Doubles:
    """(S - 1, B, n, n) s_i + s_j + iou; padding has score -inf."""
    steps, classes, width = rows.shape
    boxes, scores = padded(snippet.boxes)[rows], np.append(snippet.scores, -np.inf)[rows]
    edges = np.empty((steps - 1, classes, width, width))
    at_once = max(1, PAIRS_AT_ONCE // (classes * width**2))
    for start in range(0, steps - 1, at_once):
        now, after = slice(start, min(start + at_once, steps - 1)), slice(start + 1, start + 1 + at_once)
        np.add(scores[now, :, :, None], scores[after, :, None, :], out=edges[now])
        edges[now] += pairwise_overlap(boxes[now], boxes[after], extent)
    return edges


def _relate(edges: Doubles, frames: Sequence[FrameBoxes], snippet: Snippet, rows: Ints) -> None:
    """Multiply the edges by exp(relation weight) where consecutive frames have one."""
    none = np.full(len(snippet.scores) + 1, np.iinfo(np.int64).max)  # of padding: in no pool
    for first, stop, frame in zip(snippet.offsets[:-1], snippet.offsets[1:], frames, strict=True):
        if frame.proposal is not None:
            none[first:stop] = frame.proposal
    proposal = none[rows]  # (S, B, n)
    frame_of = np.append(snippet.frame, -1)[rows[:, :, 0]]  # (S, B) -1: no box
    for t in range(len(edges)):
        for b, (u, v) in enumerate(zip(frame_of[t].tolist(), frame_of[t + 1].tolist(), strict=True)):
            weights = frames[u].relation if u >= 0 and v == u + 1 else None
            if weights is not None:
                _multiply(edges[t, b], weights, proposal[t, b], proposal[t + 1, b])


def _multiply(edges: Doubles, weights: Real, query: Ints, key: Ints) -> None:
    """edges (n, n) *= exp of weights (P, K) for queries and keys (n,); larger numbers than those are not in it."""
    known, lent = np.flatnonzero(query < len(weights)), np.flatnonzero(key < weights.shape[1])
    factors = np.exp(weights[query[known, None], key[lent]].astype(np.float64))
    edges[known[:, None], lent] *= factors


def _take_all(lattice: Lattice, tables: Sequence[Ints], path: Ints, paths: int, whole: bool) -> int:
    """Number every path of the lattice in ``path`` (N,) from ``paths`` on; return the next free number.

    ``whole``: each class has as many paths as its poorest step has boxes, no more.
    """
    rounds = np.array([(t >= 0).sum(axis=1).min(initial=np.iinfo(np.int64).max) for t in tables])
    done = 0

    def take(rows: Ints, b: Ints, run: Ints) -> bool:
        nonlocal paths, done
        if whole:
            open_ = done < rounds[b]
            rows, b, run = rows[open_], b[open_], run[open_]
        _, number = np.unique(run * len(tables) + b, return_inverse=True)
        path[rows] = paths + number
        paths += int(number.max(initial=-1)) + 1
        done += 1
        return not whole or bool((done < rounds).any())

    if whole:
        for table in tables:
            if len(table) == 1:  # tubes of length one
                rows = table[table >= 0]
                path[rows] = paths + np.arange(len(rows))
                paths += len(rows)
    take_paths(lattice, take)
    return paths


def _rescored(scores: Doubles, path: Ints) -> Doubles:
    """Scores (N,) plus the mean of the best half of the scores of each box's path, if it has one."""
    (members,) = np.nonzero(path >= 0)
    order = members[np.lexsort((-scores[members], path[members]))]
    number = path[order]
    length = np.bincount(number)
    place = np.arange(len(order)) - (np.cumsum(length) - length)[number]
    best = (length + 1) // 2
    top: Bools = place < best[number]
    # Added one by one in descending order: the sum does not depend on where the boxes stand.
    mean = np.bincount(number[top], weights=scores[order[top]], minlength=len(length)) / np.maximum(best, 1)
    result = scores.copy()
    result[order] += mean[number]
    return result
