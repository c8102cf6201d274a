"""Frames a second and processor time a frame: of decoding alone, and of clips as training gets them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from vodbench.images import decode
from vodbench.spec import Clip, ClipSpec, Frame
from vodbench_datasets.clips.pipeline import BLOCK_CLIPS, RayClips, plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One measurement."""

    frames_per_second: float
    cpu_ms_a_frame: float  # of this process and all that it started
    first_seconds: float = 0.0  # until the first clip: Ray Data's start

    @staticmethod
    def median(flows: Sequence[Flow]) -> Flow:
        """The one with the median speed (the lower of two), its other figures with it."""
        speed = statistics.median_low(flow.frames_per_second for flow in flows)
        return next(flow for flow in flows if flow.frames_per_second == speed)


def encoded_frames(dataset: RayClips, clips: ClipSpec, stop: int, seed: int) -> list[Frame]:
    """The encoded frames of clips 0 to ``stop`` of the training split, each once a clip, in memory."""
    plan = plan_of(dataset, clips, split="train", seed=seed)
    planned = (plan[number] for number in range(stop))
    return [
        frame for clip in planned for frame in dataset.read("train", clip.snippet, list(dict.fromkeys(clip.indices)))
    ]


def decoding(frames: Sequence[Frame]) -> Flow:
    """Nothing but decoding, in this thread."""
    started, cpu = time.perf_counter(), time.thread_time()
    for frame in frames:
        decode(frame.encoded, frame.snippet)
    return Flow(
        frames_per_second=len(frames) / (time.perf_counter() - started),
        cpu_ms_a_frame=1000 * (time.thread_time() - cpu) / len(frames),
    )


def reading(dataset: RayClips, clips: ClipSpec, num_clips: int, seed: int) -> Flow:
    """Clips as one training worker gets them; counted from the end of the first block on."""
    asked = time.perf_counter()
    arriving = dataset.training_clips(clips, split="train", seed=seed, start=0, stop=num_clips + BLOCK_CLIPS)
    next(arriving)
    first = time.perf_counter() - asked
    for _ in range(BLOCK_CLIPS - 1):
        next(arriving)
    started, cpu = time.perf_counter(), _cpu_seconds()
    count = sum(distinct_frames(clip) for clip in arriving)
    return Flow(
        frames_per_second=count / (time.perf_counter() - started),
        cpu_ms_a_frame=1000 * (_cpu_seconds() - cpu) / count,
        first_seconds=first,
    )


def distinct_frames(clip: Clip) -> int:
    """Frames that were decoded for it."""
    return len({clip.reference.index, *(frame.index for frame in clip.supports)})


def _cpu_seconds() -> float:
    """Of this process and of all its descendants, Ray's among them."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
