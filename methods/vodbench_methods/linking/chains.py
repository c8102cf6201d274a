"""Seq-NMS (Han et al. 2016, as FGFA's code has it): suppression along the best chains of overlapping boxes.

Boxes of one class in consecutive frames are linked where they overlap. The chain of links with the largest sum of
scores is taken, its boxes get the chain's mean (or best) score, and in each of its frames they suppress what overlaps
them; then the next chain, until no link is left.

How it is fast and exact
------------------------
``value[j]``, the best sum of a chain that ends in box j, and ``back[j]``, the box before it, are made once. Taking a
chain away only ever lowers values, and only of boxes whose own best chain ran through what is gone: those reached by
following ``back`` in reverse. They alone are made anew, frame by frame, as the same sum of the same numbers; all others
are what a recomputation would find. The best end of a chain comes from a heap whose outdated entries are skipped.
Overlaps are made in bulk. The work after that is proportional to what is removed, not to paths x snippet. Memory is
some 50 bytes for every overlapping pair while they are made: give it scored candidates, not all proposals x classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from vodbench.errors import UserError
from vodbench.spec import Ints
from vodbench_methods.linking.link_graph import LinkGraph, Neighbours
from vodbench_methods.linking.records import Doubles, FrameBoxes, Linked, Snippet, accepted

Rescore = Literal["mean", "max"]
Leftovers = Literal["keep", "suppress"]

_NEVER = np.iinfo(np.int64).max


def seq_nms(
    frames: Sequence[FrameBoxes],
    *,
    link_iou: float = 0.5,
    suppress_iou: float = 0.3,
    rescore: Rescore = "mean",
    leftovers: Leftovers = "keep",
    min_sum: float = 0.01,
    extent: float = 1.0,
) -> list[Linked]:
    """Seq-NMS over the frames of one snippet, given *before* NMS.

    Args:
        link_iou: boxes of consecutive frames whose IoU reaches it are linked.
        suppress_iou: a chain's box suppresses those of its frame whose IoU reaches it.
        rescore: every box of a chain gets the chain's ``mean`` or ``max`` score. A single box is a chain too.
        leftovers: ``keep`` is the published code: it stops when a class has no link left or its best sum is below
            ``min_sum``, and what remains then stays as it is, duplicates included (all of a snippet of one frame).
            ``suppress`` goes on until every box is on a chain or suppressed, so that the result is free of duplicates.
        extent: what a width adds to ``x2 - x1``.

    Returns one record a frame; ``path`` numbers the chains of more than one box. Of equal sums the chain that ends
    first is taken (earlier frame, then lower row), of equal ways into a box the one from the lower row, as in the
    published code. ``UserError`` for an IoU outside (0, 1] or an unknown choice.
    """
    for name, iou in (("link_iou", link_iou), ("suppress_iou", suppress_iou)):
        if not 0 < iou <= 1:
            raise UserError(f"{name} = {iou} is not accepted: a number in (0, 1]; 0.5 and 0.3 are the published ones")
    accepted("rescore", rescore, get_args(Rescore))
    accepted("leftovers", leftovers, get_args(Leftovers))
    snippet = Snippet.of(frames)
    graph = LinkGraph.of(snippet, link_iou, suppress_iou, extent)
    floor = min_sum if leftovers == "keep" else -np.inf
    taken = _take_paths(snippet, graph, floor)
    if leftovers == "keep":
        taken.forget_after(_last_rounds(snippet, graph, taken.round))
    members, path, length = taken.members()
    kept = taken.round == _NEVER
    kept[members] = True
    scores = snippet.scores.copy()
    if rescore == "max":
        best = np.full(len(length), -np.inf)
        np.maximum.at(best, path, scores[members])
    else:
        best = np.array(taken.sums) / length
    scores[members] = best[path]
    number = np.full(len(scores), -1, np.int64)
    number[members] = np.where(length[path] > 1, path, -1)
    return snippet.linked(kept, scores, number)


@dataclass(slots=True, eq=False)
class _Taken:
    """Chains in the order they were taken, and the number of the chain that took or suppressed each row."""

    paths: list[list[int]]
    sums: list[float]
    round: Ints  # (N,) _NEVER: neither taken nor suppressed

    def members(self) -> tuple[Ints, Ints, Ints]:
        """Rows on chains, the chain of each, and the length of each chain."""
        length = np.array([len(path) for path in self.paths], np.int64)
        rows = np.array([row for path in self.paths for row in path], np.int64)
        return rows, np.repeat(np.arange(len(length)), length), length

    def forget_after(self, last: Ints) -> None:
        """Give back what chains later than ``last`` (N,), the last round of each row's class, took."""
        self.round[(self.round > last) & (self.round != _NEVER)] = _NEVER
        kept = [n for n, path in enumerate(self.paths) if n <= last[path[0]]]
        self.paths, self.sums = [self.paths[n] for n in kept], [self.sums[n] for n in kept]


def _last_rounds(snippet: Snippet, graph: LinkGraph, rounds: Ints) -> Ints:
    """(N,) the last round that began while the row's class had a link; -1: none did.

    A link is there until one of its ends goes, and a round happens when one is there before it. All chains later than
    that are single boxes, so that taking them anyway, and giving them back, costs less than counting links.
    """
    first, second = graph.links
    ended = np.minimum(rounds[first], rounds[second])
    last = np.full(len(rounds), -1, np.int64)
    np.maximum.at(last, first, ended)
    for rows in snippet.classes:
        last[rows] = last[rows].max()
    return last


def _best_chains(snippet: Snippet, before: Neighbours) -> tuple[Doubles, Ints]:
    """(value, back) of every row before anything is taken; back is -1 where a chain begins. As ``_best_way``."""
    value, back = snippet.scores.copy(), np.full(len(snippet.scores), -1, np.int64)
    for first, stop in pairwise(snippet.offsets.tolist()):
        stops = before.stops[first : stop + 1]
        linked = np.flatnonzero(np.diff(stops))  # of the frame's rows, those with a way in
        if not len(linked):
            continue
        starts, counts = stops[linked] - stops[0], np.diff(stops)[linked]
        others = before.others[stops[0] : stops[-1]]
        rows = first + linked
        totals = value[others] + np.repeat(value[rows], counts)
        best = np.maximum.reduceat(totals, starts)
        hits = np.flatnonzero(totals == np.repeat(best, counts))
        longer = best > value[rows]
        back[rows[longer]] = others[hits[np.searchsorted(hits, starts[longer])]]
        value[rows[longer]] = best[longer]
    return value, back


def _best_way(row: int, linked: list[int], scores: list[float], value: list[float]) -> tuple[float, int]:
    """The best sum that ends in ``row`` and the row before it, of the ``linked`` ones; a chain may begin here."""
    own = best = scores[row]
    back = -1
    for other in linked:
        total = value[other] + own
        if total > best:
            best, back = total, other
    return best, back


def _take_paths(snippet: Snippet, graph: LinkGraph, floor: float) -> _Taken:
    """All chains whose sum reaches ``floor``, best first."""
    after, beside = graph.after, graph.beside
    values, ways = _best_chains(snippet, graph.before)
    # A box that meets no other is a chain that changes nothing.
    meets = np.flatnonzero(sum(np.diff(n.stops) for n in (after, graph.before, beside)))
    heap = list(zip((-values[meets]).tolist(), meets.tolist(), strict=True))
    heapify(heap)
    value, back = values.tolist(), ways.tolist()
    rounds = [_NEVER] * len(value)
    paths: list[list[int]] = []
    sums: list[float] = []
    while heap:
        negative, row = heappop(heap)
        if rounds[row] != _NEVER or value[row] != -negative:
            continue  # it is gone, or its value fell since
        if -negative < floor:
            break
        path = _chain(row, back)
        gone = _suppress(path, len(paths), beside, rounds)
        paths.append(path)
        sums.append(-negative)
        if len(path) > 1 or any(after[row] for row in gone):
            _repair(graph, sorted(gone), rounds, value, back, heap)
    return _Taken(paths, sums, np.array(rounds, np.int64))


def _chain(end: int, back: list[int]) -> list[int]:
    """The rows of the best chain that ends in ``end``, in the order of frames."""
    path = [end]
    while back[end] >= 0:
        end = back[end]
        path.append(end)
    path.reverse()
    return path


def _suppress(path: list[int], number: int, beside: Neighbours, rounds: list[int]) -> list[int]:
    """Mark the rows of a chain and those that they suppress as gone in round ``number``; return them all."""
    gone = path.copy()
    for row in path:
        rounds[row] = number
        for other in beside[row]:
            if rounds[other] == _NEVER:
                rounds[other] = number
                gone.append(other)
    return gone


def _repair(
    graph: LinkGraph,
    gone: list[int],
    rounds: list[int],
    value: list[float],
    back: list[int],
    heap: list[tuple[float, int]],
) -> None:
    """Make anew the values of the rows whose best chain ran through ``gone`` (ascending; frames without a gap)."""
    scores, frame, after, before = graph.scores, graph.frame, graph.after, graph.before
    shaken: list[int] = []  # rows of frame t whose best way in is gone or worth less
    t, position = frame[gone[0]], 0
    while shaken or position < len(gone):
        following: list[int] = []
        for row in shaken:
            left = [other for other in before[row] if rounds[other] == _NEVER]
            total, back[row] = _best_way(row, left, scores, value)
            if total != value[row]:
                value[row] = total
                heappush(heap, (-total, row))
                following += [other for other in after[row] if back[other] == row and rounds[other] == _NEVER]
        while position < len(gone) and frame[gone[position]] == t:
            row = gone[position]
            following += [other for other in after[row] if back[other] == row and rounds[other] == _NEVER]
            position += 1
        shaken, t = following, t + 1
