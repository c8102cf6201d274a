"""The refinement of a window's best proposals, kept in parts that no step has to take back.

Attention to a set of keys is known by its output and the logarithm of its softmax sum, and the attention to two sets
together is the mean of both, weighted by their sums (``Attended.joined``). A refined proposal of frame f sees the
frames before f leave one after the other, oldest first; those from f on outlast it. So it is enough to keep, for every
frame f of the window:

- ``before``: the attention to frames j .. f - 1 for every j that may yet be the oldest, made when f enters;
- ``since``: the attention to f and all later frames but the newest, joined as they enter;
- ``newest``: the attention to the newest frame, apart because it counts for those beyond the video's end;
- ``first``: the attention to the first frame of the video while it is in the window, for the same reason.

Half of what one output a pair of frames takes, and a step joins four parts instead of 2T + 1. Nothing is subtracted,
so nothing drifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vodbench_methods.rdn.records import Support
from vodbench_methods.rdn.ring import SupportRing
from vodbench_methods.relation import ObjectRelation


@dataclass(frozen=True, slots=True)
class Attended:
    """Attention to some keys: ``outputs`` (..., H, D / H), ``log_sums`` (..., H) of the softmax, -inf for no key."""

    outputs: Tensor
    log_sums: Tensor

    @staticmethod
    def nothing(rows: Sequence[int], heads: int, width: int, device: torch.device) -> Attended:
        log_sums = torch.full((*rows, heads), -torch.inf, device=device)
        return Attended(torch.zeros(*rows, heads, width, device=device), log_sums)

    def write(self, index: int, other: Attended) -> None:
        self.outputs[index], self.log_sums[index] = other.outputs, other.log_sums

    def joined(self, other: Attended) -> Attended:
        """Attention to the keys of both."""
        share = (other.log_sums - self.log_sums).sigmoid_().nan_to_num_(0.0)  # NaN: neither has a key
        outputs = torch.lerp(self.outputs, other.outputs, share[..., None])
        return Attended(outputs, torch.logaddexp(self.log_sums, other.log_sums))

    def counted(self, copies: int) -> Attended:
        """With every key so many times."""
        return self if copies == 1 else Attended(self.outputs, self.log_sums + math.log(copies))


class PartialSums:
    """The parts for the first ``refined_per_frame`` proposals of every frame of ``ring``.

    ``module`` is the place of ``relation`` among those that the ring has keys and values for.
    """

    def __init__(self, relation: ObjectRelation, ring: SupportRing, module: int, refined_per_frame: int) -> None:
        self._relation, self._ring, self._module, self._refined = relation, ring, module, refined_per_frame
        weight = relation.key.weight
        dim, heads, frames = len(weight), relation.num_heads, ring.frames
        self._sizes = (heads, dim // heads, weight.device)
        self._features = torch.zeros(frames, refined_per_frame, dim, device=weight.device)
        # One unit for each pair of frames, and one more that stays empty.
        self._before = Attended.nothing((_pairs(frames) + 1, refined_per_frame), *self._sizes)
        self._since = self._nothing()
        self._newest = self._nothing()
        self._first: Attended | None = None  # None when the first frame has left

    def _nothing(self) -> Attended:
        return Attended.nothing((self._ring.frames, self._refined), *self._sizes)

    @staticmethod
    def bytes_needed(frames: int, refined_per_frame: int, dim: int) -> int:
        """Size of the part ``before``, by far the largest."""
        return 4 * _pairs(frames) * refined_per_frame * dim

    def entered(self, support: Support, num_refined: int) -> None:
        """Relate the frame that the ring has just taken to all others, and all others to it."""
        slots = self._ring.slots
        slot, everywhere = slots[-1], slice(0, self._ring.frames)
        self._settle_newest(len(slots))
        self._features[slot, :num_refined] = support.features[:num_refined]
        self._look_back(slots, self._relate(slice(slot, slot + 1), everywhere))
        outputs, log_sums = self._relate(everywhere, slice(slot, slot + 1))
        shape = (self._ring.frames, self._refined)
        self._newest = Attended(outputs.view(*shape, *outputs.shape[2:]), log_sums.view(*shape, -1))

    def leaves(self) -> None:
        """The oldest frame goes: what was seen of it alone is of no use any more."""
        self._first = None

    def _settle_newest(self, count: int) -> None:
        """The frame that was the newest is so no longer, now that there are ``count``."""
        if count == 1:
            self._first = self._nothing()
        elif count == 2 and self._first is not None:
            self._first = self._newest
        else:
            self._since = self._since.joined(self._newest)

    def _relate(self, queries: slice, keys: slice) -> tuple[Tensor, Tensor]:
        """Outputs (refined proposals, slots, H, D / H) and logarithms of sums, float32, of every slot of ``keys``."""
        features = self._features[queries].flatten(0, 1)
        boxes = self._ring.boxes[queries, : self._refined].flatten(0, 1)
        kv, present = self._ring.slotted(self._module, keys), self._ring.present()[keys].flatten()
        outputs, log_sums = self._relation.partial_sums(features, boxes, kv, keys.stop - keys.start, present)
        return outputs.float(), log_sums

    def _look_back(self, slots: Sequence[int], parts: tuple[Tensor, Tensor]) -> None:
        """Join what the newest frame saw of each earlier one, from the latest to the oldest."""
        *earlier, slot = slots
        outputs, log_sums = parts
        self._since.write(slot, Attended.nothing((self._refined,), *self._sizes))
        if earlier and self._first is not None:
            self._first.write(slot, Attended(outputs[:, earlier[0]], log_sums[:, earlier[0]]))
            earlier = earlier[1:]
        if not earlier:
            return
        others = earlier[::-1]
        units = [_pair(slot, other) for other in others]
        log_sums = log_sums[:, others]
        seen = log_sums.logcumsumexp(dim=1)
        self._before.log_sums[units] = seen.transpose(0, 1)
        shares = (log_sums - seen).exp_().nan_to_num_(0.0)[..., None]  # as in Attended.joined, one kernel a frame
        output = torch.zeros_like(outputs[:, 0])
        for number, (other, unit) in enumerate(zip(others, units, strict=True)):
            output = torch.lerp(output, outputs[:, other], shares[:, number], out=self._before.outputs[unit])

    def joined(self, copies: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Features, attention to the whole pool and boxes of the refined proposals, frame by frame.

        ``counts`` of them in each frame of the ring, oldest first, which counts ``copies`` times as a key; only the
        video's first frame and the newest may count more than once. Last: the frames in the order of the rows.
        """
        slots, first = self._ring.slots, self._first
        inner = copies[0 if first is None else 1 : -1]
        assert all(c == 1 for c in inner), f"frames within a video count once, not {copies}"
        attended = self._newest.counted(copies[-1]).joined(self._since).joined(self._of_earlier(slots))
        if first is not None and len(slots) > 1:
            attended = attended.joined(first.counted(copies[0]))
        by_slot = sorted(range(len(slots)), key=slots.__getitem__)
        rows = [slots[p] * self._refined + place for p in by_slot for place in range(counts[p])]
        chosen = torch.tensor(rows, dtype=torch.long, device=attended.outputs.device)
        features, outputs = self._features.flatten(0, 1), attended.outputs.flatten(0, 1).flatten(1)
        boxes = self._ring.boxes[:, : self._refined].flatten(0, 1)
        return features[chosen], outputs[chosen], boxes[chosen], by_slot

    def _of_earlier(self, slots: Sequence[int]) -> Attended:
        """Every slot's attention to the frames that came before its own, the video's first left aside."""
        units = [len(self._before.outputs) - 1] * self._ring.frames
        start = 0 if self._first is None else 1
        for slot in slots[start + 1 :]:
            units[slot] = _pair(slot, slots[start])
        index = torch.tensor(units, device=self._before.outputs.device)
        return Attended(self._before.outputs[index], self._before.log_sums[index])


def _pairs(frames: int) -> int:
    return frames * (frames - 1) // 2


def _pair(a: int, b: int) -> int:
    """The number of an unordered pair of slots."""
    return _pairs(max(a, b)) + min(a, b)
