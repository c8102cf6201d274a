"""A window's keys and values as one piece of memory, for windows of any T.

Frames lie one after the other, oldest first. One that enters is written behind the newest, one that leaves is passed
over, and where the room ends, the rest moves to its start, once in many steps. So no step gathers a window anew, its
frames may lend as many proposals as they have, and the windows of a smaller T are parts of the same memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vodbench_methods.detection.products import MIN_COLUMNS
from vodbench_methods.rdn.records import Support
from vodbench_methods.relation import KeyValues


class SupportLog:
    """The best ``per_frame`` proposals of at most ``frames`` consecutive frames, for the first ``modules`` modules.

    What it returns are views: good until the next ``push``.
    """

    def __init__(self, frames: int, per_frame: int, modules: int) -> None:
        self.per_frame, self.modules = per_frame, modules
        self.oldest = 0  # the number of the frame that entered first of those here
        self._starts: deque[int] = deque()  # where each frame's rows begin, oldest first
        self._counts: deque[int] = deque()
        self._rows = frames * per_frame + max(frames * per_frame // 2, per_frame)
        self._boxes: Tensor | None = None  # (rows, 4)
        self._kvs: list[tuple[Tensor, Tensor]] = []  # keys and values (H, rows, D / H) of each module

    @property
    def stop(self) -> int:
        """The number of the frame that enters next."""
        return self.oldest + len(self._starts)

    def push(self, support: Support) -> None:
        if self._boxes is None:
            self._make_room(support)
        count = min(len(support), self.per_frame)
        start = self._end()
        if start + count > self._rows:
            self._move_to_start()
            start = self._end()
        rows = slice(start, start + count)
        for into, entering in zip(self._all(), self._of(support), strict=True):
            into[..., rows, :] = entering[..., :count, :]
        self._starts.append(start)
        self._counts.append(count)

    def pop(self) -> None:
        """Forget the oldest frame."""
        self._starts.popleft()
        self._counts.popleft()
        self.oldest += 1

    def counts(self, frames: Iterable[int]) -> list[int]:
        """Proposals of each of these frames."""
        return [self._counts[frame - self.oldest] for frame in frames]

    def starts(self, frames: Iterable[int]) -> list[int]:
        """The first row of each of these frames."""
        return [self._starts[frame - self.oldest] for frame in frames]

    def rows(self, frames: range) -> slice:
        """Where their proposals lie."""
        last = frames[-1] - self.oldest
        return slice(self._starts[frames[0] - self.oldest], self._starts[last] + self._counts[last])

    def wide(self, rows: slice) -> slice:
        """The same with as many rows behind them, of whatever is there, as make products exact (``products``)."""
        return slice(rows.start, max(rows.stop, rows.start + MIN_COLUMNS))

    def boxes(self, rows: slice) -> Tensor:
        assert self._boxes is not None, "no frame has entered"
        return self._boxes[rows]

    def keys(self, module: int, rows: slice) -> Tensor:
        """(H, n, D / H)"""
        return self._kvs[module][0][:, rows]

    def values(self, module: int, rows: slice) -> Tensor:
        """(H, n, D / H)"""
        return self._kvs[module][1][:, rows]

    def key_values(self, module: int, rows: slice) -> KeyValues:
        return KeyValues(self.boxes(rows), self.keys(module, rows), self.values(module, rows))

    def _end(self) -> int:
        return self._starts[-1] + self._counts[-1] if self._starts else 0

    def _make_room(self, support: Support) -> None:
        """On the device and in the number format of what enters."""
        rows = self._rows + MIN_COLUMNS
        self._boxes = support.boxes.new_zeros(rows, 4)
        for kv in support.kvs[: self.modules]:
            heads, _, width = kv.keys.shape
            # Keys lie as the product with queries reads them.
            keys = kv.keys.new_zeros(heads, width, rows).transpose(1, 2)
            self._kvs.append((keys, kv.values.new_zeros(heads, rows, width)))

    def _move_to_start(self) -> None:
        begin, end = self._starts[0], self._end()
        for room in self._all():
            room[..., : end - begin, :] = room[..., begin:end, :].clone()
        self._starts = deque(start - begin for start in self._starts)

    def _all(self) -> Sequence[Tensor]:
        assert self._boxes is not None, "no frame has entered"
        return [self._boxes, *(tensor for pair in self._kvs for tensor in pair)]

    def _of(self, support: Support) -> Sequence[Tensor]:
        return [support.boxes, *(tensor for kv in support.kvs[: self.modules] for tensor in (kv.keys, kv.values))]


def rows_of_runs(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """(sum of counts,) the numbers from each start on, so many of them."""
    lengths = torch.tensor(counts, device=device)
    offsets = torch.tensor(starts, device=device) - (lengths.cumsum(0) - lengths)
    return offsets.repeat_interleave(lengths) + torch.arange(int(sum(counts)), device=device)
