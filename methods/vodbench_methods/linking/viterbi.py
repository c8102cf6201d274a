"""The best paths through a snippet, again and again: dynamic programming over dense edges, several classes at once.

A *step* is a frame as one class sees it; a box of step t has an edge to every box of step t + 1. A *run* is a sequence
of steps without an empty one. A round takes the best path of every run of every class in one pass, from the run's first
step to its last; a step whose boxes are used up ends the runs of the next round.

Every path changes what is best before it in its whole run, so there is nothing to keep between rounds but the edges;
rounds get cheaper as runs shorten (finished steps are skipped) and as boxes get fewer (the tables are narrowed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vodbench.spec import Bools, Ints
from vodbench_methods.linking.records import Doubles


@dataclass(slots=True, eq=False)
class Lattice:
    """B classes beside one another, padded to n boxes a step.

    ``edges[t, b, i, j]`` joins box i of step t to box j of step t + 1. A row of -inf is a box that is used up, or
    padding; ``end`` is 0 for a box that is there, else -inf.
    """

    rows: Ints  # (S, B, n) row of each box in the snippet, -1 for padding; boxes first, ascending
    edges: Doubles  # (S - 1, B, n, n)
    end: Doubles  # (S, B, n)

    @staticmethod
    def of(rows: Ints, edges: Doubles) -> Lattice:
        """``edges`` becomes the lattice's own."""
        end = np.where(rows >= 0, 0.0, -np.inf)
        edges += end[:-1, :, :, None]
        return Lattice(rows, edges, end)

    @property
    def there(self) -> Bools:
        """(S, B, n) which boxes are left."""
        present: Bools = self.end == 0.0
        return present

    def use_up(self, t: Ints, b: Ints, i: Ints) -> None:
        self.end[t, b, i] = -np.inf
        inner = t < len(self.edges)
        self.edges[t[inner], b[inner], i[inner]] = -np.inf

    def narrowed(self) -> Lattice:
        """The same without padding and used-up boxes that no step needs; what is left keeps its order."""
        width = int(self.there.sum(axis=2).max(initial=0))
        order = np.argsort(~self.there, axis=2, kind="stable")[:, :, :width]
        t, b = np.arange(len(order))[:, None, None], np.arange(order.shape[1])[None, :, None]
        edges = self.edges[t[:-1, ..., None], b[..., None], order[:-1, :, :, None], order[1:, :, None, :]]
        return Lattice(self.rows[t, b, order], edges, self.end[t, b, order])


def take_paths(lattice: Lattice, take: Callable[[Ints, Ints, Ints], bool]) -> None:
    """All rounds. ``take(rows, b, run)`` is given each round's boxes, those of a path with the same b and run.

    It returns whether to go on; the rounds end at the latest when no two consecutive steps have boxes.
    """
    while True:
        counts = lattice.there.sum(axis=2)  # (S, B)
        filled = counts > 0
        joined = filled[:-1] & filled[1:]
        if not joined.any():
            return
        if 4 * counts.max() <= 3 * lattice.rows.shape[2]:
            lattice = lattice.narrowed()
        t, b, i, run = _best_paths(lattice, joined)
        if not take(lattice.rows[t, b, i], b, run):
            return
        lattice.use_up(t, b, i)


def _best_paths(lattice: Lattice, joined: Bools) -> tuple[Ints, Ints, Ints, Ints]:
    """The best path of every run of at least two steps: (step, class, box, first step of the run) of each box on it.

    Of equal paths the one whose boxes come first, compared from the first step on.
    """
    value = _best_rest(lattice, joined)
    before = np.zeros((len(value), joined.shape[1]), np.bool_)  # is the step joined to the one before it?
    before[1:] = joined
    box = _follow(lattice, value, before)
    on_path = before.copy()
    on_path[:-1] |= joined
    t, b = np.nonzero(on_path)
    first = np.maximum.accumulate(np.where(before, -1, np.arange(len(value))[:, None]), axis=0)
    return t, b, box[t, b], first[t, b]


def _best_rest(lattice: Lattice, joined: Bools) -> Doubles:
    """(S, B, n) the largest sum of edges from each box to the end of its run; -inf where there is none."""
    value = lattice.end.copy()
    through = np.empty_like(lattice.edges[0])
    best = np.empty_like(value[0])
    for t in np.flatnonzero(joined.any(axis=1))[::-1].tolist():
        np.add(lattice.edges[t], value[t + 1][:, None, :], out=through)
        through.max(axis=2, out=best)
        # Where the next step is empty all is -inf, and the run ends here with 0.
        np.maximum(best, value[t], out=value[t])
    return value


def _follow(lattice: Lattice, value: Doubles, before: Bools) -> npt.NDArray[np.intp]:
    """(S, B) the box of each class's path in each step; meaningless where no path goes."""
    steps, classes, width = value.shape
    box: npt.NDArray[np.intp] = value.argmax(axis=2)  # right where a run begins
    flat = lattice.edges.reshape(max(steps - 1, 0), classes * width, width)
    base = np.arange(classes) * width
    for t in np.flatnonzero(before.any(axis=1)).tolist():
        onward = flat[t - 1].take(base + box[t - 1], axis=0)
        onward += value[t]
        np.copyto(box[t], onward.argmax(axis=1), where=before[t])
    return box
