"""The first module for many windows at once: its queries are the same for all.

What the queries gather from a band of proposals is made once for all windows of the same frames: the sum of a larger K
goes on from that of a smaller one. The exponentials of a band serve the windows of every T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vodbench_methods.rdn.bands import Placed, Range, is_full, ranges
from vodbench_methods.rdn.window import View
from vodbench_methods.relation import Room, are_told, exponentials, head_blocks, joined_heads, weighed


@dataclass(frozen=True, slots=True)
class Piece:
    """A band's proposals of the frames of some windows."""

    columns: slice  # of the band's own
    values: Tensor  # (H, n, D / H)
    copies: Tensor | None  # (n,) how often each counts; None: once


class Family:
    """Windows of the same frames, whatever their K."""

    def __init__(self, views: Sequence[View], numbers: Sequence[int], bands: Sequence[Placed]) -> None:
        self._ends: dict[Range, list[int]] = {}  # band -> windows of which it is the last
        for number in numbers:
            self._ends.setdefault(ranges(views[number].K)[-1], []).append(number)
        wanted = {band for number in numbers for band in ranges(views[number].K)}
        view = views[numbers[0]]
        self._pieces = {
            placed.proposals: Piece(
                placed.of(view.frames),
                placed.log.values(0, placed.log.rows(view.frames)),
                view.copies(placed.log),
            )
            for placed in bands
            if placed.proposals in wanted
        }
        self._outputs: dict[int, list[Tensor]] = {number: [] for number in numbers}
        self._sums: dict[int, list[Tensor]] = {number: [] for number in numbers}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # of the best so many of each frame

    def take(self, band: Range, heads: slice, shares: Tensor) -> None:
        """A band's exponentials (h, R, ...); bands come in order, for one block of heads after the other."""
        if band not in self._pieces:
            return
        piece, (low, high) = self._pieces[band], band
        own = shares[..., piece.columns]
        output, total = weighed(own if piece.copies is None else own * piece.copies, piece.values[heads])
        if low:
            output, total = self._before[low][0] + output, self._before[low][1] + total
        if is_full(band):
            self._before[high] = output, total
        for number in self._ends.get(band, ()):
            self._outputs[number].append(output / total)
            self._sums[number].append(total)

    def results(self) -> dict[int, Tensor | None]:
        """Window -> (R, D); None where float32 does not tell it from exponentials."""
        return {
            number: joined_heads(torch.cat(self._outputs[number])) if are_told(torch.cat(sums)) else None
            for number, sums in self._sums.items()
        }

    def forget(self) -> None:
        """Begin anew, with other queries."""
        for made in (*self._outputs.values(), *self._sums.values()):
            made.clear()


class FirstModule:
    """``bands`` hold all proposals that any of ``views`` looks at."""

    def __init__(self, bands: Sequence[Placed], views: Sequence[View], room: Room) -> None:
        self._bands, self._num_views, self._room = bands, len(views), room
        alike: dict[tuple[range, tuple[int, ...]], list[int]] = {}
        for number, view in enumerate(views):
            alike.setdefault((view.frames, view.counted), []).append(number)
        self._families = [Family(views, numbers, bands) for numbers in alike.values()]

    def __call__(self, queries: Tensor, weights: Tensor) -> list[Tensor | None]:
        """(R, D) for each window, of queries (H, R, D / H) with geometric weights (H, R, columns of all bands).

        None where it has to be made otherwise: see ``are_told``; for mixed precision.
        """
        if queries.dtype != torch.float32 or torch.is_autocast_enabled(queries.device.type):
            return [None] * self._num_views
        for family in self._families:
            family.forget()
        widest = max(placed.columns.stop - placed.columns.start for placed in self._bands)
        for heads in head_blocks(queries, widest):
            for placed in self._bands:
                logits = self._room.product(queries[heads], placed.keys(0)[heads].transpose(1, 2))
                shares = exponentials(logits, weights[heads][..., placed.columns])
                for family in self._families:
                    family.take(placed.proposals, heads, shares)
        found = {number: own for family in self._families for number, own in family.results().items()}
        return [found[number] for number in range(self._num_views)]
