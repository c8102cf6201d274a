"""A ring of supports: where the keys and values of a window lie, so that no step gathers them anew.

A window has as many slots as frames, each with room for as many proposals as a frame may lend. A frame that enters
takes the slot of the one that left, so the pool of a full window is the ring as it lies, its frames in a rotated
order, which attention does not mind. Only where slots are not filled to the brim (the ends of a video, frames of few
proposals) are the filled parts put together in a copy, unless they happen to be one piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vodbench_methods.rdn.records import Pool, Support, consecutive, spread
from vodbench_methods.relation import KeyValues


class SupportRing:
    """A ``Memory`` of unrefined proposals: ``frames`` slots of ``per_frame`` each.

    ``pool`` gives views of the ring: good until the next ``push``.
    """

    def __init__(self, frames: int, per_frame: int) -> None:
        self.frames, self.per_frame = frames, per_frame
        self.counts: deque[int] = deque()  # proposals of each frame, oldest first
        self._oldest = 0
        self._boxes: Tensor | None = None  # (frames, per_frame, 4)
        self._kvs: list[tuple[Tensor, Tensor]] = []  # keys and values (H, frames, per_frame, D / H) for each module

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def slots(self) -> list[int]:
        """The slots taken, oldest frame first."""
        return [(self._oldest + position) % self.frames for position in range(len(self))]

    @property
    def boxes(self) -> Tensor:
        """(frames, per_frame, 4), zeros or what was there before where a slot is not filled."""
        assert self._boxes is not None, "no frame has entered"
        return self._boxes

    def push(self, support: Support) -> None:
        assert len(self) < self.frames
        assert len(support) <= self.per_frame
        if self._boxes is None:
            self._make_room(support)
        slot, count = (self._oldest + len(self)) % self.frames, len(support)
        self.boxes[slot, :count] = support.boxes
        for (keys, values), kv in zip(self._kvs, support.kvs, strict=True):
            keys[:, slot, :count], values[:, slot, :count] = kv.keys, kv.values
        self.counts.append(count)

    def _make_room(self, support: Support) -> None:
        """On the device and in the number format of what enters."""
        self._boxes = support.boxes.new_zeros(self.frames, self.per_frame, 4)
        for kv in support.kvs:
            shape = (len(kv.keys), self.frames, self.per_frame, kv.keys.shape[2])
            self._kvs.append((kv.keys.new_zeros(shape), kv.values.new_zeros(shape)))

    def pop(self) -> None:
        self.counts.popleft()
        self._oldest = (self._oldest + 1) % self.frames

    def present(self) -> Tensor:
        """(frames, per_frame) float32: 1 where a slot is filled."""
        filled = [0] * self.frames
        for slot, count in zip(self.slots, self.counts, strict=True):
            filled[slot] = count
        device = self.boxes.device
        return (torch.arange(self.per_frame, device=device) < torch.tensor(filled, device=device)[:, None]).float()

    def slotted(self, module: int, slots: slice) -> KeyValues:
        """Keys and values of so many whole slots, filled or not, for one module: a view."""
        keys, values = self._kvs[module]
        return KeyValues(self.boxes[slots].flatten(0, 1), keys[:, slots].flatten(1, 2), values[:, slots].flatten(1, 2))

    def pool(self, copies: Sequence[int], modules: int | None = None) -> Pool:
        """All frames, by slot; frame i (from the oldest) counts ``copies[i]`` times; for the first ``modules``."""
        slots = self.slots
        by_slot = sorted(range(len(self)), key=slots.__getitem__)
        lengths = [self.counts[position] for position in by_slot]
        places = dict(zip(by_slot, consecutive(lengths), strict=True))
        pieces = _pieces((slots[p] * self.per_frame, n) for p, n in zip(by_slot, lengths, strict=True))
        kvs = tuple(self._taken(module, pieces) for module in range(len(self._kvs))[:modules])
        counted = spread([copies[p] for p in by_slot], lengths, self.boxes.device)
        return Pool(kvs, counted, tuple(places[p] for p in range(len(self))))

    def _taken(self, module: int, pieces: Sequence[slice]) -> KeyValues:
        whole = self.slotted(module, slice(0, self.frames))
        parts = [KeyValues(whole.boxes[piece], whole.keys[:, piece], whole.values[:, piece]) for piece in pieces]
        return parts[0] if len(parts) == 1 else KeyValues.concatenate(parts)


def _pieces(runs: Iterable[tuple[int, int]]) -> list[slice]:
    """As few slices as cover the runs (start, length), which ascend; one that is empty when there is nothing."""
    pieces: list[slice] = []
    for start, length in runs:
        if pieces and pieces[-1].stop == start:
            pieces[-1] = slice(pieces[-1].start, start + length)
        elif length:
            pieces.append(slice(start, start + length))
    return pieces or [slice(0, 0)]
