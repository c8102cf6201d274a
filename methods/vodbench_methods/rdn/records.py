"""What the parts of RDN hand to one another. Boxes are xyxy pixels of the resized image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from vodbench_methods.relation import KeyValues


@dataclass(frozen=True, slots=True)
class Support:
    """What a frame lends to others: its k best proposals with their keys and values, made once."""

    boxes: Tensor  # (k, 4)
    objectness: Tensor  # (k,)
    features: Tensor  # (k, D)
    kvs: tuple[KeyValues, ...]  # one for each module that attends to unrefined proposals

    def __len__(self) -> int:
        return len(self.boxes)

    def top(self, k: int) -> Support:
        """The k best proposals (all where there are fewer)."""
        return self.between(0, k)

    def between(self, low: int, high: int) -> Support:
        """Proposals ``low`` to ``high`` - 1, as far as there are so many."""
        some = slice(low, high)
        kvs = tuple(KeyValues(kv.boxes[some], kv.keys[:, some], kv.values[:, some]) for kv in self.kvs)
        return Support(self.boxes[some], self.objectness[some], self.features[some], kvs)


@dataclass(frozen=True, slots=True)
class Pool:
    """The supportive proposals of a window: P of them, and where there is an advanced stage the refined ones."""

    kvs: tuple[KeyValues, ...]  # of P proposals, one for each module that attends to unrefined proposals
    copies: Tensor | None  # (P,) how often each counts; None: once
    places: tuple[slice, ...]  # where the proposals of each frame are among the P, by the frames' order in the window
    refined: KeyValues | None = None
    refined_copies: Tensor | None = None


def spread(copies: Sequence[int] | None, lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """(sum of lengths,) the copies of every proposal from the copies of its frame; None when all count once."""
    if copies is None or all(c == 1 for c in copies):
        return None
    counts = torch.tensor(copies, dtype=torch.float32, device=device)
    return counts.repeat_interleave(torch.tensor(lengths, device=device))


def consecutive(lengths: Sequence[int]) -> tuple[slice, ...]:
    """Slices of so many rows each, one after the other."""
    return tuple(slice(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True))
