"""How the best proposals of any two frames attend to each other's: made once for a pair, whatever the window.

When a frame enters, its best proposals attend to every earlier frame by itself, and those of every earlier frame to
its. Windows of any T at the same K join such parts (``partial_sums``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vodbench_methods.detection.products import MIN_COLUMNS
from vodbench_methods.rdn.attended import Attended
from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.ring import SupportRing
from vodbench_methods.relation import ObjectRelation


@dataclass(frozen=True, slots=True)
class Entered:
    """What a frame and those before it see of each other; ``slots`` tells where a frame's part is."""

    frames: int
    features: Tensor  # (n, D) of the frame's best
    boxes: Tensor  # (n, 4)
    sees: Attended  # (n, frames, ...): its n best, to each frame
    seen: Attended  # (frames, n, ...): the n best of each frame, to it

    def slots(self, numbers: Sequence[int]) -> list[int]:
        return [number % self.frames for number in numbers]


class PairAttention:
    """The pairs of ``frames`` consecutive frames that lend ``per_frame`` proposals each, of which ``refined`` attend.

    Each of ``users`` takes every frame's parts once, in order; they are forgotten then.
    """

    def __init__(self, relation: ObjectRelation, frames: int, per_frame: int, refined: int, users: int) -> None:
        self._relation, self._refined, self._users = relation, refined, users
        self._frames = max(frames, -(-MIN_COLUMNS // per_frame))
        self._ring = SupportRing(self._frames, per_frame)
        weight, heads = relation.key.weight, relation.num_heads
        width = len(weight) // heads
        self._queries = torch.zeros(heads, self._frames, refined, width, device=weight.device, dtype=weight.dtype)
        self._entered: dict[int, tuple[Entered, int]] = {}
        self._stop = 0

    def take(self, number: int, support: Support) -> Entered:
        """The parts of frame ``number``, whose keys and values for the module that refines are the last."""
        if number == self._stop:
            self._entered[number] = self._enter(support), self._users
            self._stop += 1
        entered, left = self._entered.pop(number)
        if left > 1:
            self._entered[number] = entered, left - 1
        return entered

    def _enter(self, support: Support) -> Entered:
        ring, count = self._ring, min(len(support), self._refined)
        if len(ring) == self._frames:
            ring.pop()
        ring.push(Support(support.boxes, support.objectness, support.features, support.kvs[-1:]))
        slot, everywhere = ring.slots[-1], slice(0, self._frames)
        here = slice(slot, slot + 1)
        features = support.features.new_zeros(self._refined, support.features.shape[1])
        features[:count] = support.features[:count]
        self._queries[:, slot] = self._relation.queries(features)
        outputs, log_sums = self._relate(everywhere, here)
        shape = (self._frames, self._refined)
        seen = Attended(outputs.view(*shape, *outputs.shape[2:]), log_sums.view(*shape, -1))
        return Entered(
            self._frames,
            features,
            ring.boxes[slot, : self._refined].clone(),
            Attended(*self._relate(here, everywhere)),
            seen,
        )

    def _relate(self, queries: slice, keys: slice) -> tuple[Tensor, Tensor]:
        """Outputs (refined proposals, slots, H, D / H) and logarithms of sums, float32, of every slot of ``keys``."""
        boxes = self._ring.boxes[queries, : self._refined].flatten(0, 1)
        kv, present = self._ring.slotted(0, keys), self._ring.present()[keys].flatten()
        own = self._queries[:, queries].flatten(1, 2)
        outputs, log_sums = self._relation.partial_sums(own, boxes, kv, keys.stop - keys.start, present)
        return outputs.float(), log_sums
