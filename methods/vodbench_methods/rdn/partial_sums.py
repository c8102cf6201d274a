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

from collections.abc import Sequence

import torch
from torch import Tensor

from vodbench_methods.rdn.attended import Attended
from vodbench_methods.rdn.log import rows_of_runs
from vodbench_methods.rdn.pairs import Entered
from vodbench_methods.relation import ObjectRelation


class PartialSums:
    """The parts for the first ``refined_per_frame`` proposals of every frame of a window of ``frames``.

    A frame has the slot ``number % frames``, as long as it is in the window.
    """

    def __init__(self, relation: ObjectRelation, frames: int, refined_per_frame: int) -> None:
        self._frames, self._refined = frames, refined_per_frame
        weight = relation.key.weight
        dim, heads = len(weight), relation.num_heads
        self._sizes = (heads, dim // heads, weight.device)
        self._oldest = self._stop = 0  # numbers of the frames in the window
        self._features = torch.zeros(frames, refined_per_frame, dim, device=weight.device)
        self._boxes = torch.zeros(frames, refined_per_frame, 4, device=weight.device)
        # One unit for each pair of frames, and one more that stays empty.
        self._before = Attended.nothing((_pairs(frames) + 1, refined_per_frame), *self._sizes)
        self._since = self._nothing()
        self._newest = self._nothing()
        self._first: Attended | None = None  # None when the first frame has left

    def _nothing(self) -> Attended:
        return Attended.nothing((self._frames, self._refined), *self._sizes)

    @staticmethod
    def bytes_needed(frames: int, refined_per_frame: int, dim: int) -> int:
        """Size of the part ``before``, by far the largest."""
        return 4 * _pairs(frames) * refined_per_frame * dim

    @property
    def stop(self) -> int:
        """The number of the frame that enters next."""
        return self._stop

    @property
    def _slots(self) -> list[int]:
        """The slots taken, oldest frame first."""
        return [number % self._frames for number in range(self._oldest, self._stop)]

    def entered(self, pairs: Entered) -> None:
        """Take the next frame, related to all others, and all others to it."""
        assert self._stop - self._oldest < self._frames
        slot = self._stop % self._frames
        self._stop += 1
        self._settle_newest(self._stop - self._oldest)
        self._features[slot], self._boxes[slot] = pairs.features[: self._refined], pairs.boxes[: self._refined]
        numbers = dict(zip(self._slots, range(self._oldest, self._stop), strict=True))
        index = pairs.slots([numbers.get(s, 0) for s in range(self._frames)])
        present = [s in numbers for s in range(self._frames)]
        kept = slice(0, self._refined)
        sees = pairs.sees.taken(index, 1, present)
        self._look_back(self._slots, (sees.outputs[kept], sees.log_sums[kept]))
        seen = pairs.seen.taken(index, 0, present)
        self._newest = Attended(seen.outputs[:, kept], seen.log_sums[:, kept])

    def leaves(self) -> None:
        """The oldest frame goes: what was seen of it alone is of no use any more."""
        self._oldest += 1
        self._first = None

    def _settle_newest(self, count: int) -> None:
        """The frame that was the newest is so no longer, now that there are ``count``."""
        if count == 1:
            self._first = self._nothing()
        elif count == 2 and self._first is not None:
            self._first = self._newest
        else:
            self._since = self._since.joined(self._newest)

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

    def joined(self, copies: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Features, attention to the whole pool and boxes of the refined proposals, frame by frame.

        ``counts`` of them in each frame of the window, oldest first, which counts ``copies`` times as a key; only the
        video's first frame and the newest may count more than once.
        """
        slots, first = self._slots, self._first
        inner = copies[0 if first is None else 1 : -1]
        assert all(c == 1 for c in inner), f"frames within a video count once, not {copies}"
        attended = self._newest.counted(copies[-1]).joined(self._since).joined(self._of_earlier(slots))
        if first is not None and len(slots) > 1:
            attended = attended.joined(first.counted(copies[0]))
        chosen = rows_of_runs([slot * self._refined for slot in slots], counts, attended.outputs.device)
        features, outputs = self._features.flatten(0, 1), attended.outputs.flatten(0, 1).flatten(1)
        boxes = self._boxes.flatten(0, 1)
        return features[chosen], outputs[chosen], boxes[chosen]

    def _of_earlier(self, slots: Sequence[int]) -> Attended:
        """Every slot's attention to the frames that came before its own, the video's first left aside."""
        units = [len(self._before.outputs) - 1] * self._frames
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
