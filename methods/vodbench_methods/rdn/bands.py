"""The proposals of the frames around a reference frame, 25 of each frame at a time: what settings of any K have alike.

K proposals of a frame are its best 25, its next 25, ... and what is left. Sums over a window go band by band, in this
order whatever else is computed beside them, so the sum of a larger K continues that of a smaller one to the same bits.
A band's logits also fit into the second cache level of a CPU, where those of a whole window do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypeAlias

from torch import Tensor

from vodbench_methods.rdn.log import SupportLog, rows_of_runs
from vodbench_methods.rdn.records import Support
from vodbench_methods.relation import KeyValues

WIDTH = 25

Range: TypeAlias = tuple[int, int]
"""Proposals ``low`` to ``high`` - 1 of a frame, the best first."""


def ranges(K: int) -> tuple[Range, ...]:
    """The bands of the K best."""
    return tuple((low, min(low + WIDTH, K)) for low in range(0, K, WIDTH))


def is_full(band: Range) -> bool:
    return band[1] - band[0] == WIDTH


class Band:
    """These proposals of the frames up to ``T`` away, with keys and values for ``modules``."""

    def __init__(self, proposals: Range, T: int, modules: int) -> None:
        self.proposals, self.T = proposals, T
        low, high = proposals
        self.log = SupportLog(2 * T + 1, high - low, modules)

    @property
    def stop(self) -> int:
        """The number of the frame that enters next."""
        return self.log.stop

    def push(self, support: Support) -> None:
        self.log.push(support.between(*self.proposals))

    def leave(self, reference: int) -> None:
        """That frame was answered: forget the oldest, if no later one reaches it."""
        if reference >= self.T:
            self.log.pop()

    def placed(self, reference: int, num_frames: int, start: int) -> Placed:
        """Around a reference frame, from column ``start`` on."""
        frames = range(max(0, reference - self.T), min(num_frames, reference + self.T + 1))
        return Placed(self.proposals, self.log, frames, self.log.wide(self.log.rows(frames)), start)


@dataclass(frozen=True, slots=True)
class Placed:
    """A band among the columns of a step's geometric weights, from ``start`` on."""

    proposals: Range
    log: SupportLog
    frames: range
    rows: slice
    start: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.rows.stop - self.rows.start)

    @property
    def boxes(self) -> Tensor:
        return self.log.boxes(self.rows)

    def keys(self, module: int) -> Tensor:
        """(H, n, D / H)"""
        return self.log.keys(module, self.rows)

    def of(self, frames: range) -> slice:
        """Where these frames are among the band's own columns."""
        rows = self.log.rows(frames)
        return slice(rows.start - self.rows.start, rows.stop - self.rows.start)

    def columns_of(self, frames: range) -> slice:
        """Where these frames are among the columns of all bands."""
        own = self.of(frames)
        return slice(self.start + own.start, self.start + own.stop)


def side_by_side(bands: Iterable[Band], reference: int, num_frames: int) -> list[Placed]:
    """All bands around a reference frame, by their proposals."""
    placed: list[Placed] = []
    for band in sorted(bands, key=lambda band: band.proposals):
        placed.append(band.placed(reference, num_frames, placed[-1].columns.stop if placed else 0))
    return placed


def reaching(settings: Sequence[tuple[int, int]]) -> dict[Range, int]:
    """Band -> how far it has to reach, for settings of (T, K)."""
    far: dict[Range, int] = {}
    for T, K in settings:
        for band in ranges(K):
            far[band] = max(T, far.get(band, 0))
    return far


def frame_by_frame(logs: Sequence[SupportLog], frames: range) -> tuple[tuple[KeyValues, ...], list[int]]:
    """Keys and values of these frames for each module, all proposals of a frame together, and how many each has.

    ``logs``: of the bands in order.
    """
    rows = [log.rows(frames) for log in logs]
    offsets = [0, *accumulate(some.stop - some.start for some in rows)]
    counts = [log.counts(frames) for log in logs]
    starts = [
        [offset + start - some.start for start in log.starts(frames)]
        for log, some, offset in zip(logs, rows, offsets, strict=False)
    ]
    index = rows_of_runs(
        list(chain(*zip(*starts, strict=True))), list(chain(*zip(*counts, strict=True))), logs[0].device
    )
    whole = (
        KeyValues.concatenate([log.key_values(module, some) for log, some in zip(logs, rows, strict=True)])
        for module in range(logs[0].modules)
    )
    kvs = tuple(KeyValues(kv.boxes[index], kv.keys[:, index], kv.values[:, index]) for kv in whole)
    return kvs, [sum(of_frame) for of_frame in zip(*counts, strict=True)]
