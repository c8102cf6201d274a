"""A ring of supports: a slot a frame, so that what is kept of pairs of frames is found by their slots.

A window has as many slots as frames, each with room for as many proposals as a frame may lend. A frame that enters
takes the slot of the one that left.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from vodbench_methods.rdn.records import Support
from vodbench_methods.relation import KeyValues


class SupportRing:
    """The unrefined proposals of a window: ``frames`` slots of ``per_frame`` each."""

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
