"""A plug-in made for tests: a method and a data set whose every answer can be computed by hand.

The method reports one box a frame whose score is the image's mean / 255, ``T`` frames late, and burns CPU on request.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vodbench.images import encode_jpeg
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import (
    ClassInfo,
    Clip,
    ClipSpec,
    DatasetSpec,
    Detections,
    Frame,
    MethodSpec,
    SnippetInfo,
    Stage,
    Truth,
)


@dataclass(frozen=True, kw_only=True)
class PlainConfig(MethodConfig):
    width: int = knob(8, "features", low=1)
    T: int = knob(0, "frames of look-ahead", kind="inference", symbol="T", low=0)
    backbone_ms: float = knob(0.0, "CPU time burnt a frame", kind="inference", low=0)
    relation_ms: float = knob(0.0, "CPU time burnt a reported frame", kind="inference", low=0)
    fail_at: int = knob(-1, "frame that raises", kind="inference", low=-1)
    lose_at: int = knob(-1, "frame that is not reported", kind="inference", low=-1)
    die_once: str = knob("", "file to make before dying at frame 1, unless it is there", kind="inference")
    trace: str = knob("", "file that gets a line a stream", kind="inference")


class PlainMethod(torch.nn.Module):
    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = torch.nn.Linear(3, config.width, bias=False)

    def stream(self, config: PlainConfig | None = None, clock: Any = None) -> PlainStream:
        return PlainStream(self, config or self.config, clock)

    def losses(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class PlainStream:
    def __init__(self, method: PlainMethod, config: PlainConfig, clock: Any) -> None:
        from vodbench.timing import NullClock

        self.method, self.config, self.clock = method, config, clock or NullClock()
        self.number = 0
        self.waiting: list[np.ndarray] = []
        if config.trace:
            with open(config.trace, "a") as file:
                file.write("stream\n")

    def push(self, image: np.ndarray) -> list[Detections]:
        if self.number == self.config.fail_at:
            raise ZeroDivisionError("planted")
        if self.number == 1 and self.config.die_once and not Path(self.config.die_once).exists():
            Path(self.config.die_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.clock.stage("backbone"):
            self.method.linear(torch.from_numpy(image.reshape(-1, 3)).float())
            burn(self.config.backbone_ms)
        if self.number != self.config.lose_at:
            self.waiting.append(image)
        self.number += 1
        return [self.report() for _ in range(len(self.waiting) - self.config.T)]

    def close(self) -> list[Detections]:
        return [self.report() for _ in range(len(self.waiting))]

    def report(self) -> Detections:
        with self.clock.stage("relation"):
            burn(self.config.relation_ms)
            return expected(self.waiting.pop(0))


def expected(image: np.ndarray) -> Detections:
    height, width = image.shape[:2]
    box = np.array([[0, 0, width - 1, height - 1]], np.float32)
    return Detections(box, np.array([image.mean() / 255], np.float32), np.array([1], np.int64))


def burn(milliseconds: float) -> None:
    """Use that much CPU time of this thread: unlike a sleep, it is what a real method does."""
    end = time.thread_time() + milliseconds / 1e3
    while time.thread_time() < end:
        pass


class PlainData:
    """Snippets ``s0``, ``s1``, ... of ``frames + number`` frames of 24 x 16 pixels; ``bad`` names a frame ("s1/2")."""

    name = "plain"
    classes = (ClassInfo("n1", "thing"), ClassInfo("n2", "other"))
    splits = ("train", "val")

    def __init__(self, root: str, *, snippets: int = 3, frames: int = 5, bad: str = "", skip_bad: bool = False) -> None:
        self.root, self.num_snippets, self.frames, self.bad = root, snippets, frames, bad

    @property
    def fingerprint(self) -> str:
        return f"plain-{self.num_snippets}-{self.frames}-{self.bad}"

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(f"s{n}", self.frames + n) for n in range(self.num_snippets)]

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        info = next(s for s in self.snippets(split) if s.id == snippet)
        chosen = range(info.num_frames) if indices is None else indices
        return [Frame(snippet, i, self.encoded(snippet, i), NO_TRUTH) for i in chosen]

    def encoded(self, snippet: str, index: int) -> bytes:
        if f"{snippet}/{index}" == self.bad:
            return b"no image"
        return encode_jpeg(np.full((16, 24, 3), 20 * int(snippet[1:]) + 3 * index, np.uint8))

    def training_clips(self, clips: ClipSpec, **rest: Any) -> Iterator[Clip]:
        raise NotImplementedError

    def snippet_frames(self, split: str, snippets: Sequence[str], *, world: int = 1) -> Iterator[Frame]:
        for snippet in snippets:
            yield from self.read(split, snippet)


NO_TRUTH = Truth(
    np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, bool)
)

PLAIN = MethodSpec(
    name="plain",
    summary="one box a frame, for tests",
    paper="none",
    config=PlainConfig,
    presets={"paper": {}, "tiny": {}},
    build=lambda config, classes: PlainMethod(config),  # type: ignore[arg-type,return-value]
    stages=lambda config: (
        Stage(name="only", method="plain", config=config, clips=ClipSpec(), schedule=None),  # type: ignore[arg-type]
    ),
    latency_frames=lambda config: config.T,  # type: ignore[attr-defined]
)
PLAIN_DATA = DatasetSpec(name="plain", summary="for tests", accepts=lambda root: False, open=PlainData)
METHODS = {"plain": "vodbench_plain:PLAIN"}
DATASETS = {"plain": "vodbench_plain:PLAIN_DATA"}
