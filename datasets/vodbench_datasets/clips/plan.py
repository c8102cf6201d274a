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
    category: int | None = None  # the label that a clip of a group was drawn for

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
        self._seed = seed
        self._surroundings = Surroundings(clips, seed)

    def __len__(self) -> int:
        """N: clips in an epoch (the plan itself never ends)."""
        return len(self._frames)

    def __getitem__(self, number: int) -> PlannedClip:
        epoch, position = divmod(number, len(self._frames))
        chosen = int(_permutation(self._seed, epoch, len(self._frames))[position])
        snippet, reference = self._frames[chosen]
        return self._surroundings.clip(number, snippet, reference, self._lengths[chosen])


class Surroundings:
    """Support frames and the flip of clip n, drawn from (seed, n) whatever reference frame it has."""

    def __init__(self, clips: ClipSpec, seed: int) -> None:
        self._clips = clips
        self._seed = seed
        self._offsets = candidate_offsets(clips)

    def clip(self, number: int, snippet: str, reference: int, length: int, category: int | None = None) -> PlannedClip:
        """Clip ``number`` around frame ``reference`` of a snippet of ``length`` frames."""
        rng = np.random.default_rng([_DRAW, self._seed, number])
        supports = self._supports(rng, reference, length)
        flip = bool(rng.random() < self._clips.flip_probability)
        return PlannedClip(number, snippet, reference, supports, flip, category)

    def _supports(self, rng: np.random.Generator, reference: int, length: int) -> tuple[int, ...]:
        count = self._clips.num_supports
        if self._clips.whole_snippet and count:
            others = [index for index in range(length) if index != reference] or [reference]
            return tuple(int(index) for index in rng.choice(others, count, replace=count > len(others)))
        offsets = rng.choice(self._offsets, count, replace=False) if self._offsets else ()
        return tuple(min(max(reference + int(offset), 0), length - 1) for offset in offsets)


def candidate_offsets(clips: ClipSpec) -> list[int]:
    """Offsets a support frame may have, with 0 only where the spec says so; empty when none is to be drawn by them."""
    if clips.num_supports == 0 or clips.whole_snippet:
        return []
    own = clips.own_frame
    offsets = [offset for offset in range(clips.offset_low, clips.offset_high + 1) if offset != 0 or own]
    if not 0 < clips.num_supports <= len(offsets):
        raise UserError(
            f"{clips.num_supports} support frames cannot be drawn from the {len(offsets)} offsets in "
            f"[{clips.offset_low}, {clips.offset_high}]{'' if own else ' without 0'}; widen the range (training T) or "
            "ask for fewer"
        )
    return offsets


def numbers_of_worker(start: int, stop: int, rank: int, world: int, group: int = 1) -> Sequence[int]:
    """Clip numbers in [start, stop) with ``n // group % world == rank``: workers share no clip and leave none out."""
    assert 0 <= rank < world, (rank, world)
    if group == 1:
        return range(start + (rank - start) % world, stop, world)
    first = start // group
    groups = range(first + (rank - first) % world, -(-stop // group), world)
    return [n for g in groups for n in range(g * group, (g + 1) * group) if start <= n < stop]


@lru_cache(maxsize=8)  # a run is in one epoch at a time; small data sets pass several in one block of clips
def _permutation(seed: int, epoch: int, size: int) -> Ints:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(size)
