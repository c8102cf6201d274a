"""Geometric weights between the best proposals of any two frames: made once for a pair, whatever T, K and r."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vodbench_methods.detection.products import MIN_COLUMNS
from vodbench_methods.relation import ObjectRelation, Room, SharedGeometry


@dataclass(frozen=True, slots=True)
class PairWeights:
    """Of a frame that entered and those before it; the frame of a number is at ``number % frames``."""

    sees: Tensor  # (H, n, frames, P): its n best, on the P proposals of each frame
    seen: Tensor  # (H, frames, n, P): the n best of each frame, on its P proposals

    def of(self, refined: int, per_frame: int) -> PairWeights:
        """The best ``refined`` on the best ``per_frame``."""
        return PairWeights(self.sees[:, :refined, :, :per_frame], self.seen[:, :, :refined, :per_frame])


class PairGeometry:
    """``frames`` consecutive frames of ``per_frame`` proposals, of which ``refined`` attend, for one module.

    Each of ``users`` takes every frame's weights once, in order; they are forgotten then.
    """

    def __init__(self, relation: ObjectRelation, frames: int, per_frame: int, refined: int, users: int) -> None:
        self.frames, self._refined, self._users = frames, refined, users
        self._relation = relation
        device = relation.geometry.weight.device
        self._boxes = torch.zeros(frames, max(per_frame, refined, MIN_COLUMNS), 4, device=device)
        self._made: dict[int, tuple[PairWeights, int]] = {}
        self._stop = 0
        self._rooms = Room(), Room()  # for ``at``
        # For the frames that some user has still to take, and those for the next ones.
        self._taken: dict[int, tuple[Room, Room]] = {}
        self._free: list[tuple[Room, Room]] = []

    def at(self, weights: PairWeights, slots: Sequence[int]) -> PairWeights:
        """Those of the frames in these slots, in this order; good until the next call."""
        sees, seen = self._rooms
        return PairWeights(sees.taken(weights.sees, 2, slots), seen.taken(weights.seen, 1, slots))

    def take(self, number: int, boxes: Tensor) -> PairWeights:
        """The weights of frame ``number``, which has these (k, 4) boxes, best first.

        Good until the next frame's are made.
        """
        if number == self._stop:
            self._made[number] = self._enter(boxes), self._users
            self._stop += 1
        weights, left = self._made.pop(number)
        if left > 1:
            self._made[number] = weights, left - 1
        else:
            self._free.append(self._taken.pop(number))
        return weights

    def _enter(self, boxes: Tensor) -> PairWeights:
        own = self._boxes[self._stop % self.frames]
        count = min(len(boxes), len(own))
        own[:count] = boxes[:count]
        own[count:] = 0
        rooms = self._taken[self._stop] = self._free.pop() if self._free else (Room(), Room())
        (sees,) = SharedGeometry([self._relation], self._boxes.flatten(0, 1)).of_all(own[: self._refined], rooms[0])
        best = self._boxes[:, : self._refined].flatten(0, 1)
        (seen,) = SharedGeometry([self._relation], own).of_all(best, rooms[1])
        return PairWeights(
            sees.unflatten(2, (self.frames, len(own))),  # type: ignore[no-untyped-call]
            seen.unflatten(1, (self.frames, self._refined)),  # type: ignore[no-untyped-call]
        )
