"""The refined proposals of a window, step by step, for one T and K and any number of r.

Valid to keep from the step a frame enters until it leaves, exactly, where the refined proposals are the best r% of
*each frame*: their attention to the frames of the window (``partial_sums``). Then those of a smaller r are the first of
those of a larger one, and all r are refined together. With the best r% of the *whole pool* the choice itself changes
from step to step; that is computed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from vodbench_methods.detection.products import MIN_ROWS, room_for
from vodbench_methods.rdn.choice import count_best
from vodbench_methods.rdn.config import RDNConfig
from vodbench_methods.rdn.log import rows_of_runs
from vodbench_methods.rdn.pairs import PairAttention
from vodbench_methods.rdn.partial_sums import PartialSums
from vodbench_methods.rdn.records import Support, spread
from vodbench_methods.relation import KeyValues

if TYPE_CHECKING:
    from vodbench_methods.rdn.full import RDN


@dataclass(frozen=True, slots=True)
class Refined:
    """Keys and values of the refined proposals of a window.

    ``counts``: how many of the best of each frame, frame by frame; None: any of them.
    """

    kv: KeyValues
    copies: Tensor | None
    counts: tuple[int, ...] | None = None


class Refinement(Protocol):
    """Supports of consecutive frames, oldest first."""

    def push(self, support: Support) -> None:
        """Take the next frame; it may lend more proposals than this refinement looks at."""
        ...

    def pop(self) -> None:
        """Forget the oldest frame."""
        ...

    def refined(self, copies: Sequence[int]) -> list[Refined]:
        """For each r; frame i (from the oldest) counts ``copies[i]`` times.

        Within a video every frame counts once; its first and its last may stand in for those beyond its ends.
        """
        ...


Served = tuple[Refinement, Sequence[Sequence[int]]]
"""What refines, and whom each result of ``refined`` is for: numbers of configurations of the window."""


class RefinedAnew:
    """Keeps the supports and refines them anew each step, for one configuration."""

    def __init__(self, method: RDN, config: RDNConfig) -> None:
        self._method, self._config = method, config
        self._supports: deque[Support] = deque()

    def push(self, support: Support) -> None:
        self._supports.append(support.top(self._config.K))

    def pop(self) -> None:
        self._supports.popleft()

    def refined(self, copies: Sequence[int]) -> list[Refined]:
        pool = self._method.gather(self._supports, copies, self._config)
        assert pool.refined is not None
        return [Refined(pool.refined, pool.refined_copies)]


class RefinedInParts:
    """Keeps the partial sums of the best of every frame, as many as the largest of ``shares`` (r, percent) asks for.

    ``pairs`` is of the same K, and of as many frames and proposals at least.
    """

    def __init__(self, method: RDN, config: RDNConfig, shares: Sequence[float], pairs: PairAttention) -> None:
        self._method, self._shares, self._most, self._pairs = method, shares, max(shares), pairs
        self._sums = PartialSums(method.refine, 2 * config.T + 1, refined_room(config.K, self._most, config.heads))
        self._per_frame = config.K
        self._counts: deque[int] = deque()  # proposals of each frame, oldest first

    def push(self, support: Support) -> None:
        own = support.top(self._per_frame)
        self._counts.append(len(own))
        self._sums.entered(self._pairs.take(self._sums.stop, own, support.boxes))

    def pop(self) -> None:
        self._sums.leaves()
        self._counts.popleft()

    def refined(self, copies: Sequence[int]) -> list[Refined]:
        counts = [kept_best(n, self._most) for n in self._counts]
        kept = self._method.refined_key_values(*self._sums.joined(copies, counts))
        return [self._best_of(kept, counts, copies, share) for share in self._shares]

    def _best_of(self, kept: KeyValues, counts: Sequence[int], copies: Sequence[int], share: float) -> Refined:
        """Those of one r among the kept, of which each frame has so many."""
        wanted = [count_best(n, share) for n in self._counts]
        if wanted != list(counts):
            starts = [stop - count for stop, count in zip(accumulate(counts), counts, strict=True)]
            rows = rows_of_runs(starts, wanted, kept.boxes.device)
            kept = KeyValues(kept.boxes[rows], kept.keys[:, rows], kept.values[:, rows])
        return Refined(kept, spread(copies, wanted, kept.boxes.device), tuple(wanted))


def kept_best(count: int, share: float) -> int:
    """Of ``count`` proposals: r% of them, and never so few that their products would not be those of a larger r."""
    return min(count, max(count_best(count, share), MIN_ROWS))


def refined_room(per_frame: int, share: float, heads: int) -> int:
    """Rows for those kept of any frame of at most ``per_frame`` proposals."""
    return room_for(kept_best(per_frame, share), heads)
