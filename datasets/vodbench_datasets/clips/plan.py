"""The order of training clips: endless, reshuffled every epoch, the same on every machine.

Clip number n belongs to epoch ``n // N``, where N is the number of training frames; each epoch visits every
training frame once, in an order of its own. Everything about clip n follows from (seed, n) alone, so a run may stop,
resume elsewhere or change its number of workers and still see the clips it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vodbench.errors import UserError
from vodbench.spec import ClipSpec, Ints

# The two random streams of a seed, kept apart: without a leading word, epoch e and clip n = e would share numbers.
_ORDER, _DRAW = 1, 2


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """What clip ``number`` is made of; all indices are 0-based frames of ``snippet``."""

    number: int
    snippet: str
    reference: int
    supports: tuple[int, ...]
    flip: bool

    @property
    def indices(self) -> tuple[int, ...]:
        """The reference, then the supports; an index may come twice (clamping, still images)."""
        return (self.reference, *self.supports)


class ClipPlan:
    """``plan[n]`` is clip number n.

    frames: (snippet, reference index) of every training frame, in the data set's order
    lengths: frames in the snippet of each training frame, aligned with ``frames``
    """

    def __init__(self, frames: Sequence[tuple[str, int]], lengths: Sequence[int], clips: ClipSpec, seed: int) -> None:
        assert len(frames) == len(lengths), (len(frames), len(lengths))
        if not frames:
            raise UserError("no training frames: the split has no frame with a box; check its list and annotations")
        if seed < 0:
            raise UserError(f"seed {seed} is negative; give 0 or more")
        self._frames = list(frames)
        self._lengths = list(lengths)
        self._clips = clips
        self._seed = seed
        self._offsets = candidate_offsets(clips)

    def __len__(self) -> int:
        """N: clips in an epoch (the plan itself never ends)."""
        return len(self._frames)

    def __getitem__(self, number: int) -> PlannedClip:
        epoch, position = divmod(number, len(self._frames))
        chosen = int(_permutation(self._seed, epoch, len(self._frames))[position])
        snippet, reference = self._frames[chosen]
        rng = np.random.default_rng([_DRAW, self._seed, number])
        offsets = rng.choice(self._offsets, self._clips.num_supports, replace=False) if self._offsets else ()
        last = self._lengths[chosen] - 1
        supports = tuple(min(max(reference + int(offset), 0), last) for offset in offsets)
        return PlannedClip(number, snippet, reference, supports, bool(rng.random() < self._clips.flip_probability))


def candidate_offsets(clips: ClipSpec) -> list[int]:
    """Offsets a support frame may have: [offset_low, offset_high] without 0; empty when no support is asked for."""
    if clips.num_supports == 0:
        return []
    offsets = [offset for offset in range(clips.offset_low, clips.offset_high + 1) if offset != 0]
    if not 0 < clips.num_supports <= len(offsets):
        raise UserError(
            f"{clips.num_supports} support frames cannot be drawn from the {len(offsets)} offsets in "
            f"[{clips.offset_low}, {clips.offset_high}] without 0; widen the range (training T) or ask for fewer"
        )
    return offsets


def numbers_of_worker(start: int, stop: int, rank: int, world: int) -> range:
    """Clip numbers in [start, stop) with ``n % world == rank``: workers share no clip and leave none out."""
    assert 0 <= rank < world, (rank, world)
    return range(start + (rank - start) % world, stop, world)


@lru_cache(maxsize=8)  # a run is in one epoch at a time; small data sets pass several in one block of clips
def _permutation(seed: int, epoch: int, size: int) -> Ints:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(size)
