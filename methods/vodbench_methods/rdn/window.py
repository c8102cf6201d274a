"""The frames around a reference frame at one T and K, and where they are among those of a larger window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.log import SupportLog, rows_of_runs
from vodbench_methods.rdn.records import Support, spread
from vodbench_methods.rdn.refinement import Refined, Served
from vodbench_methods.relation import Room
from vodbench_methods.sequence import window


@dataclass(frozen=True, slots=True)
class View:
    """The window of one reference frame."""

    log: SupportLog
    frames: range
    rows: slice  # of the log
    copies: Tensor | None  # (n,) how often each proposal counts; None: once
    refined: tuple[tuple[Refined | None, tuple[int, ...]], ...]  # each with the numbers of the settings it is for


class Window:
    """Settings of the same T and K; ``numbers`` tells them from the others, ``log`` holds K proposals a frame."""

    def __init__(
        self,
        log: SupportLog,
        config: RDNBasicConfig,
        numbers: Sequence[int],
        refinements: Sequence[Served],
    ) -> None:
        self.log, self.T = log, config.T
        self._config, self._numbers, self._refinements = config, numbers, refinements
        self.stop = 0  # the number of the frame that enters next

    def push(self, support: Support) -> None:
        for refinement, _ in self._refinements:
            refinement.push(support)
        self.stop += 1

    def place(self, reference: int, num_frames: int) -> tuple[range, list[int]]:
        """Its frames and how often each counts, in a video of which ``num_frames`` were seen."""
        return window(reference, num_frames, self._config)

    def view(self, reference: int, num_frames: int) -> View:
        frames, copies = self.place(reference, num_frames)
        rows = self.log.rows(frames)
        refined = [
            (found, tuple(self._numbers[n] for n in served))
            for refinement, lots in self._refinements
            for found, served in zip(refinement.refined(copies), lots, strict=True)
        ]
        counted = spread(copies, self.log.counts(frames), self.log.boxes(rows).device)
        return View(self.log, frames, rows, counted, tuple(refined) or ((None, tuple(self._numbers)),))

    def leave(self, reference: int) -> None:
        """That frame was answered: forget the oldest, if no later window reaches it."""
        if reference >= self.T:
            for refinement, _ in self._refinements:
                refinement.pop()


@dataclass(frozen=True, slots=True)
class Part:
    """Some columns of a matrix: a slice, the first of each run of equal length in it, or any."""

    columns: slice | Tensor
    runs: tuple[int, int] | None = None  # (length of a run, how many of its first)

    def of(self, matrix: Tensor) -> Tensor:
        """(..., n) or, for runs, (..., runs, n) of (..., columns): a view where the columns are regular."""
        taken = matrix[..., self.columns]
        if self.runs is None:
            return taken
        length, first = self.runs
        return taken.view(*taken.shape[:-1], taken.shape[-1] // length, length)[..., :first]

    def copied(self, matrix: Tensor, room: Room) -> Tensor:
        """(..., n) of (..., columns), in other memory."""
        taken = room.copy(self.of(matrix))
        return taken if self.runs is None else taken.flatten(-2)


class Columns:
    """The columns of the proposals of some frames, as they lie in a log."""

    def __init__(self, log: SupportLog, frames: range) -> None:
        self._log, self._first = log, log.rows(frames).start

    def of_best(self, frames: range, counts: Sequence[int]) -> Part:
        """So many of the best of each of these frames."""
        starts = [start - self._first for start in self._log.starts(frames)]
        there = self._log.counts(frames)
        rows = slice(starts[0], starts[-1] + there[-1])
        if list(counts) == there:
            return Part(rows)
        if len(set(counts)) == len(set(there)) == 1:
            return Part(rows, (there[0], counts[0]))
        return Part(rows_of_runs(starts, counts, self._log.boxes(slice(0, 0)).device))
