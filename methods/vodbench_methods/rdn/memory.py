"""The sliding buffer of a stream: the supports of a window, and what of their refinement can be kept.

Valid to keep from the step a frame enters until it leaves, exactly: its proposals and RoI features; its keys and values
for every module that attends to unrefined proposals (they depend on the frame alone: ``ring``); and, where the refined
proposals are the best r% of *each frame*, their attention to the frames of the window (``partial_sums``).
Not valid to keep: all that involves the reference frame's queries, and keys and values of refined proposals, which
change with the window. With the best r% of the *whole pool* the choice itself changes; that is computed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from vodbench_methods.rdn.partial_sums import PartialSums
from vodbench_methods.rdn.records import Pool, Support, spread
from vodbench_methods.rdn.ring import SupportRing
from vodbench_methods.relation import KeyValues

Gather = Callable[[Sequence[Support], Sequence[int]], Pool]


class Memory(Protocol):
    """Supports of consecutive frames, oldest first."""

    def push(self, support: Support) -> None: ...

    def pop(self) -> None:
        """Forget the oldest frame."""
        ...

    def pool(self, copies: Sequence[int]) -> Pool:
        """All frames as one pool; frame i (from the oldest) counts ``copies[i]`` times. Good until the next ``push``.

        Within a video every frame counts once; its first and its last may stand in for those beyond its ends.
        """
        ...


class PlainMemory:
    """Keeps the supports and gathers them anew each step."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._supports: deque[Support] = deque()

    def push(self, support: Support) -> None:
        self._supports.append(support)

    def pop(self) -> None:
        self._supports.popleft()

    def pool(self, copies: Sequence[int]) -> Pool:
        return self._gather(self._supports, copies)


class RefiningMemory:
    """A ring of supports with the partial sums of their refinement by the last of ``modules`` modules.

    ``finish`` makes the pool's refined keys and values; the pool has no others for that module.
    """

    def __init__(
        self,
        ring: SupportRing,
        sums: PartialSums,
        modules: int,
        count_refined: Callable[[int], int],
        finish: Callable[[Tensor, Tensor, Tensor], KeyValues],
    ) -> None:
        self._ring, self._sums, self._modules = ring, sums, modules
        self._count, self._finish = count_refined, finish

    def push(self, support: Support) -> None:
        self._ring.push(support)
        self._sums.entered(support, self._count(len(support)))

    def pop(self) -> None:
        self._sums.leaves()
        self._ring.pop()

    def pool(self, copies: Sequence[int]) -> Pool:
        counts = [self._count(n) for n in self._ring.counts]
        features, attention, boxes, order = self._sums.joined(copies, counts)
        refined = self._finish(features, attention, boxes)
        refined_copies = spread([copies[i] for i in order], [counts[i] for i in order], boxes.device)
        pool = self._ring.pool(copies, self._modules - 1)
        return replace(pool, refined=refined, refined_copies=refined_copies)
