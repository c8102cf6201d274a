"""The windows of one or more settings on one video: what settings share is computed once, to the same bits.

T, K and r decide which proposals a reference frame attends to. What does not depend on that choice is made once:

- keys and values of a frame's proposals, for the largest K;
- the geometric weights of the reference proposals on the union of all windows: a setting takes its columns;
- the logits of the first module, whose queries are the same for all;
- for settings of the same T and K the whole basic stage, and their refined proposals, of which a smaller r has some.

All else runs setting by setting, with the very operations of a setting alone, which is a group of one here. Rows and
columns of larger products are exact where ``detection.products`` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.detection.products import MIN_ROWS
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.log import SupportLog
from vodbench_methods.rdn.records import Pool, Support, consecutive, spread
from vodbench_methods.rdn.step import Rooms, Step
from vodbench_methods.rdn.window import Window
from vodbench_methods.relation import evenly

if TYPE_CHECKING:
    from vodbench_methods.rdn.basic import RDNBasic

# Reference proposals at a time: few enough for the logits of a head to stay near in a CPU's caches, many
# enough for matrix products to run near their best. Not a matter of the window: settings of all windows go together.
_ROWS_ON_CPU = 150


class RelationWindows:
    """Frames enter one after the other (``push``); ``related`` answers one of them, then ``leave`` passes it over.

    Reference frames are asked for in order, each once all frames of its windows are there or the video has ended.
    """

    def __init__(self, method: RDNBasic, configs: Sequence[RDNBasicConfig]) -> None:
        self._method, self._num_configs = method, len(configs)
        self._T, self._K = max(c.T for c in configs), max(c.K for c in configs)
        self._reach: dict[SupportLog, int] = {}  # T of each log
        self._union = self._log(self._T, self._K, configs)
        self._windows = self._grouped(configs)
        self._recent: deque[Support] = deque()  # frames that some log or window has still to take
        self._first_recent = 0
        self._rooms = Rooms()

    def _log(self, T: int, K: int, configs: Sequence[RDNBasicConfig]) -> SupportLog:
        """A log of K proposals a frame, with all modules where it is a setting's own and not the union's alone."""
        own = any(config.K == K and config.T == T for config in configs)
        modules = self._method.config.N_b
        log = SupportLog(2 * T + 1, K, modules if own else min(modules, 1))
        self._reach[log] = T
        return log

    def _grouped(self, configs: Sequence[RDNBasicConfig]) -> list[Window]:
        reach = {K: max(c.T for c in configs if c.K == K) for K in dict.fromkeys(c.K for c in configs)}
        logs = {K: self._union if (T, K) == (self._T, self._K) else self._log(T, K, configs) for K, T in reach.items()}
        alike: dict[tuple[int, int, str], list[int]] = {}
        for number, config in enumerate(configs):
            alike.setdefault((config.T, config.K, config.video_ends), []).append(number)
        refinements = self._method.refinements([[configs[n] for n in numbers] for numbers in alike.values()])
        return [
            Window(logs[K], configs[numbers[0]], numbers, own)
            for ((_, K, _), numbers), own in zip(alike.items(), refinements, strict=True)
        ]

    @property
    def num_frames(self) -> int:
        return self._first_recent + len(self._recent)

    def push(self, frame: FrameFeatures) -> None:
        """Take the next frame."""
        self._recent.append(self._method.support(frame.top(max(self._K, MIN_ROWS))))

    def related(self, frame: FrameFeatures, reference: int) -> list[Tensor]:
        """(Q, D) features of the Q proposals of frame number ``reference``, ready for the predictor, by configuration.

        Configurations that agree in them share the tensor.
        """
        self._enter(reference)
        count = len(frame.features)
        missing = max(0, MIN_ROWS - count)
        features, boxes = F.pad(frame.features, (0, 0, 0, missing)), F.pad(frame.boxes, (0, 0, 0, missing))
        step = Step(
            self._method,
            self._union,
            range(max(0, reference - self._T), min(self.num_frames, reference + self._T + 1)),
            [window.view(reference, self.num_frames) for window in self._windows],
            self._rooms,
        )
        size = _ROWS_ON_CPU if features.device.type == "cpu" else step.rows_per_chunk
        parts = [step.related(features[rows], boxes[rows]) for rows in evenly(len(features), size)]
        joined = [torch.cat(of_one)[:count] for of_one in zip(*parts, strict=True)]
        by_number = {n: own for own, numbers in zip(joined, step.numbers, strict=True) for n in numbers}
        return [by_number[n] for n in range(self._num_configs)]

    def pool(self, reference: int) -> tuple[Pool, int, list[int]]:
        """The basic stage's pool of the first window, the reference frame's place in it, how often frames count."""
        window, log = self._windows[0], self._windows[0].log
        frames, copies = window.place(reference, self.num_frames)
        rows, counts = log.rows(frames), log.counts(frames)
        kvs = tuple(log.key_values(module, rows) for module in range(log.modules))
        counted = spread(copies, counts, log.boxes(rows).device)
        return Pool(kvs, counted, consecutive(counts)), reference - frames.start, copies

    def leave(self, reference: int) -> None:
        """The frame was answered: forget what no later one needs."""
        for window in self._windows:
            window.leave(reference)
        for log, T in self._reach.items():
            if reference >= T:
                log.pop()
        taken = min([*(log.stop for log in self._reach), *(window.stop for window in self._windows)])
        while self._recent and self._first_recent < taken:
            self._recent.popleft()
            self._first_recent += 1

    def _enter(self, reference: int) -> None:
        """Let frames into the logs and windows that reach them."""
        entered: list[tuple[SupportLog | Window, int]] = [*self._reach.items(), *((w, w.T) for w in self._windows)]
        for into, T in entered:
            while into.stop <= min(reference + T, self.num_frames - 1):
                into.push(self._recent[into.stop - self._first_recent])
