"""The sliding buffer of a stream: the supports of a window, and what of their refinement can be kept.

Valid to keep from the step a frame enters until it leaves, exactly: its proposals and RoI features; its keys and values
for every module that attends to unrefined proposals (they depend on the frame alone); and, where the refined proposals
are the best r% of *each frame*, their attention to each frame of the window. Attention to a pool is the mean of the
attentions to its frames weighted by their softmax sums, so partial results are kept per (refined proposal, frame), a
column and a row are added for the frame that enters, those of the frame that leaves are dropped, and the mean is taken
anew each step: nothing is added to and subtracted from, so nothing drifts.
Not valid to keep: all that involves the reference frame's queries, and keys and values of refined proposals, which
change with the window. With the best r% of the *whole pool* the choice itself changes; that is computed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from vodbench_methods.rdn.records import Pool, Support, spread
from vodbench_methods.relation import KeyValues, ObjectRelation

Gather = Callable[[Sequence[Support], Sequence[int]], Pool]


class Memory(Protocol):
    """Supports of consecutive frames, oldest first."""

    def push(self, support: Support) -> None: ...

    def pop(self) -> None:
        """Forget the oldest frame."""
        ...

    def pool(self, copies: Sequence[int]) -> Pool:
        """All frames as one pool; frame i counts ``copies[i]`` times."""
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


class PartialSums:
    """The refinement of every frame's best proposals, kept in parts: one per pair of frames.

    A ring of ``frames`` slots with room for ``per_frame`` supports each, the first ``refined_per_frame`` of which are
    refined. Slots that a frame does not fill weigh nothing.
    """

    def __init__(self, relation: ObjectRelation, frames: int, per_frame: int, refined_per_frame: int) -> None:
        self._relation = relation
        self.frames, self._run, self._refined = frames, per_frame, refined_per_frame
        weight = relation.key.weight
        dim, heads = len(weight), relation.num_heads

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=weight.device)

        self._keys = zeros(heads, frames, per_frame, dim // heads)
        self._values = zeros(heads, frames, per_frame, dim // heads)
        self._boxes = zeros(frames, per_frame, 4)
        self._present = zeros(frames, per_frame)  # 1 where a slot is filled
        self._features = zeros(frames, refined_per_frame, dim)
        self._outputs = zeros(frames, refined_per_frame, frames, heads, dim // heads)
        self._log_sums = torch.full((frames, refined_per_frame, frames, heads), -torch.inf, device=weight.device)

    @staticmethod
    def bytes_needed(frames: int, refined_per_frame: int, dim: int) -> int:
        """Size of the partial sums, by far the largest part."""
        return 4 * frames**2 * refined_per_frame * dim

    def enter(self, slot: int, support: Support, kv: KeyValues, num_refined: int) -> None:
        """Relate the frame's refined proposals to every frame, and every frame's to its supports."""
        self.leave(slot)
        count = len(support)
        self._keys[:, slot, :count], self._values[:, slot, :count] = kv.keys, kv.values
        self._boxes[slot, :count], self._present[slot, :count] = support.boxes, 1.0
        self._features[slot, :num_refined] = support.features[:num_refined]
        self._relate(slice(0, self.frames), slice(slot, slot + 1))
        self._relate(slice(slot, slot + 1), slice(0, self.frames))

    def leave(self, slot: int) -> None:
        """Later frames do not see it; its column is written anew when the slot is taken again."""
        self._present[slot] = 0.0

    def _relate(self, queries: slice, keys: slice) -> None:
        features = self._features[queries].flatten(0, 1)
        boxes = self._boxes[queries, : self._refined].flatten(0, 1)
        kv = KeyValues(
            self._boxes[keys].flatten(0, 1), self._keys[:, keys].flatten(1, 2), self._values[:, keys].flatten(1, 2)
        )
        groups = keys.stop - keys.start
        outputs, log_sums = self._relation.partial_sums(features, boxes, kv, groups, self._present[keys].flatten())
        shape = (queries.stop - queries.start, self._refined)
        self._outputs[queries, :, keys] = outputs.view(*shape, *outputs.shape[1:])
        self._log_sums[queries, :, keys] = log_sums.view(*shape, *log_sums.shape[1:])

    def joined(self, slots: Sequence[int], counts: Sequence[int], copies: Sequence[int]) -> tuple[Tensor, ...]:
        """Features, attention to the whole pool and boxes of the refined proposals, frame by frame.

        ``counts`` of them in each of ``slots``, whose supports count ``copies`` times.
        """
        index = torch.tensor(slots, device=self._boxes.device)
        weight = torch.full((self.frames,), -torch.inf, device=self._boxes.device)
        weight[index] = torch.tensor(copies, dtype=torch.float32, device=self._boxes.device).log()
        chosen = torch.arange(self._refined, device=index.device) < torch.tensor(counts, device=index.device)[:, None]
        frame, place = torch.where(chosen)
        frame = index[frame]
        shares = (self._log_sums + weight[:, None]).softmax(dim=2)  # absent rows may be NaN; they are not chosen
        outputs = torch.einsum("fsgh,fsghd->fshd", shares, self._outputs).flatten(2)
        return self._features[frame, place], outputs[frame, place], self._boxes[frame, place]


class RefiningMemory:
    """Supports with the partial sums of their refinement. ``finish`` makes the pool's refined keys and values."""

    def __init__(
        self,
        sums: PartialSums,
        gather: Gather,
        count_refined: Callable[[int], int],
        finish: Callable[[Tensor, Tensor, Tensor], KeyValues],
    ) -> None:
        self._sums, self._gather, self._count, self._finish = sums, gather, count_refined, finish
        self._supports: deque[Support] = deque()
        self._oldest = 0

    def _slot(self, position: int) -> int:
        return (self._oldest + position) % self._sums.frames

    def push(self, support: Support) -> None:
        slot = self._slot(len(self._supports))
        self._supports.append(support)
        self._sums.enter(slot, support, support.kvs[-1], self._count(len(support)))

    def pop(self) -> None:
        self._supports.popleft()
        self._sums.leave(self._oldest)
        self._oldest = self._slot(1)

    def pool(self, copies: Sequence[int]) -> Pool:
        slots = [self._slot(i) for i in range(len(self._supports))]
        counts = [self._count(len(s)) for s in self._supports]
        features, attention, boxes = self._sums.joined(slots, counts, copies)
        pool = self._gather(self._supports, copies)
        refined_copies = spread(copies, counts, boxes.device)
        return replace(pool, refined=self._finish(features, attention, boxes), refined_copies=refined_copies)
