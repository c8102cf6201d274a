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
from vodbench_methods.rdn.pair_geometry import PairGeometry, PairWeights
from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.ring import SupportRing
from vodbench_methods.relation import ObjectRelation, Room, partial_sums


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

    Each of ``users`` takes every frame's parts once, in order; they are forgotten then. ``geometry`` is of as many
    frames and proposals at least.
    """

    def __init__(
        self, relation: ObjectRelation, geometry: PairGeometry, frames: int, per_frame: int, refined: int, users: int
    ) -> None:
        self._relation, self._geometry, self._refined, self._users = relation, geometry, refined, users
        self._frames = max(frames, -(-MIN_COLUMNS // per_frame))
        self._ring = SupportRing(self._frames, per_frame)
        weight, heads = relation.key.weight, relation.num_heads
        width = len(weight) // heads
        self._queries = torch.zeros(heads, self._frames, refined, width, device=weight.device, dtype=weight.dtype)
        self._entered: dict[int, tuple[Entered, int]] = {}
        self._stop = 0
        self._room = Room()

    def take(self, number: int, support: Support, boxes: Tensor) -> Entered:
        """The parts of frame ``number``, whose keys and values for the module that refines are the last.

        boxes: (k, 4) of all its proposals that any setting looks at, ``support``'s first.
        """
        if number == self._stop:
            self._entered[number] = self._enter(support, self._geometry.take(number, boxes)), self._users
            self._stop += 1
        entered, left = self._entered.pop(number)
        if left > 1:
            self._entered[number] = entered, left - 1
        return entered

    def _enter(self, support: Support, weights: PairWeights) -> Entered:
        ring, refined, count = self._ring, self._refined, min(len(support), self._refined)
        if len(ring) == self._frames:
            ring.pop()
        ring.push(Support(support.boxes, support.objectness, support.features, support.kvs[-1:]))
        slot = self._stop % self._frames
        features = support.features.new_zeros(refined, support.features.shape[1])
        features[:count] = support.features[:count]
        boxes = support.boxes.new_zeros(refined, 4)
        boxes[:count] = support.boxes[:count]
        self._queries[:, slot] = self._relation.queries(features)
        own = self._own(weights)
        here, present = slice(slot, slot + 1), ring.present()
        sees, seen = own.sees.transpose(1, 2), own.seen.flatten(1, 2)[:, None]
        outwards = self._related(self._queries[:, slot], sees, slice(0, self._frames), present.flatten())
        outputs, log_sums = self._related(self._queries.flatten(1, 2), seen, here, present[slot])
        shape = (self._frames, refined)
        inwards = Attended(outputs.view(*shape, *outputs.shape[2:]), log_sums.view(*shape, -1))
        return Entered(self._frames, features, boxes, Attended(*outwards), inwards)

    def _own(self, weights: PairWeights) -> PairWeights:
        """Those of the proposals here, frames by their slots here; good until the next."""
        own = weights.of(self._refined, self._ring.per_frame)
        if self._frames == self._geometry.frames:
            return own
        numbers = {n % self._frames: n for n in range(max(0, self._stop - len(self._ring) + 1), self._stop + 1)}
        there = [numbers.get(slot, 0) % self._geometry.frames for slot in range(self._frames)]
        return self._geometry.at(own, there)

    def _related(self, queries: Tensor, weights: Tensor, keys: slice, present: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (refined proposals, slots, H, D / H) and logarithms of sums, float32, of every slot of ``keys``."""
        kv = self._ring.slotted(0, keys)
        outputs, log_sums = partial_sums(queries, weights, kv, present, self._room)
        return outputs.float(), log_sums
