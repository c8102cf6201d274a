"""The frames around a reference frame at one T and K, and where they are among those of a larger window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.log import SupportLog, rows_of_runs
from vodbench_methods.rdn.records import Support, spread
from vodbench_methods.rdn.refinement import Refined, Served
from vodbench_methods.sequence import window


@dataclass(frozen=True, slots=True)
class View:
    """The window of one reference frame."""

    K: int
    frames: range
    counted: tuple[int, ...]  # how often each frame counts
    refined: tuple[tuple[Refined | None, tuple[int, ...]], ...]  # each with the numbers of the settings it is for

    def copies(self, log: SupportLog) -> Tensor | None:
        """(n,) how often each proposal of its frames in a log counts; None: once."""
        return spread(self.counted, log.counts(self.frames), log.device)


class Window:
    """Settings of the same T and K; ``numbers`` tells them from the others."""

    def __init__(self, config: RDNBasicConfig, numbers: Sequence[int], refinements: Sequence[Served]) -> None:
        self.T, self.K = config.T, config.K
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
        refined = [
            (found, tuple(self._numbers[n] for n in served))
            for refinement, lots in self._refinements
            for found, served in zip(refinement.refined(copies), lots, strict=True)
        ]
        return View(self.K, frames, tuple(copies), tuple(refined) or ((None, tuple(self._numbers)),))

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


class Columns:
    """The columns of proposals of consecutive frames, of which each has so many (``counts``), the best first."""

    def __init__(self, frames: range, counts: Sequence[int], device: torch.device) -> None:
        self._frames, self._counts, self._device = frames, counts, device
        self._starts = [stop - count for stop, count in zip(accumulate(counts), counts, strict=True)]

    def of_best(self, frames: range, counts: Sequence[int]) -> Part:
        """So many of the best of each of these frames."""
        some = slice(frames.start - self._frames.start, frames.stop - self._frames.start)
        starts, there = self._starts[some], self._counts[some]
        columns = slice(starts[0], starts[-1] + there[-1])
        if list(counts) == list(there):
            return Part(columns)
        if len(set(counts)) == len(set(there)) == 1:
            return Part(columns, (there[0], counts[0]))
        return Part(rows_of_runs(starts, counts, self._device))
