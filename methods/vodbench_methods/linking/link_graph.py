"""Which boxes of a snippet are linked and which suppress one another, for Seq-NMS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodbench.spec import Ints
from vodbench_methods.linking.overlap import overlapping
from vodbench_methods.linking.records import Snippet


class Neighbours:
    """Of every row, some other rows, ascending. As arrays, since dense candidates have thousands of pairs a box."""

    def __init__(self, rows: Ints, others: Ints, count: int) -> None:
        """From pairs by ascending row."""
        self.stops = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
        self.others = others
        self._stops: list[int] = self.stops.tolist()

    def __getitem__(self, row: int) -> list[int]:
        start, stop = self._stops[row], self._stops[row + 1]
        found: list[int] = self.others[start:stop].tolist() if stop > start else []
        return found


@dataclass(slots=True, eq=False)
class LinkGraph:
    """Links between frames in both directions and neighbours to suppress, row by row; rows ascend with their frame."""

    scores: list[float]
    frame: list[int]
    after: Neighbours  # the linked rows of the next frame
    before: Neighbours  # ... of the frame before
    beside: Neighbours  # the overlapping rows of the row's own frame
    links: tuple[Ints, Ints]

    @staticmethod
    def of(snippet: Snippet, link_iou: float, suppress_iou: float, extent: float) -> LinkGraph:
        first, second = overlapping(snippet, 1, link_iou, extent)
        count = len(snippet.scores)
        reverse = np.argsort(second, kind="stable")
        return LinkGraph(
            scores=snippet.scores.tolist(),
            frame=snippet.frame.tolist(),
            after=Neighbours(first, second, count),
            before=Neighbours(second[reverse], first[reverse], count),
            beside=Neighbours(*overlapping(snippet, 0, suppress_iou, extent), count),
            links=(first, second),
        )
