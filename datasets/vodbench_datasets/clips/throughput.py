"""Frames a second and processor time a frame: of decoding alone, and of clips as training gets them."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from vodbench.images import decode
from vodbench.prefetch import THREAD
from vodbench.spec import Clip, ClipSpec, Frame
from vodbench.timing.contention import ThreadTimes
from vodbench_datasets.clips.pipeline import BLOCK_CLIPS, RayClips, plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One measurement."""

    frames_per_second: float
    cpu_ms_a_frame: float  # of this process and all that it started
    first_seconds: float = 0.0  # until the first clip: Ray Data's start
    # What the thread that decodes waited for, where the kernel counts it: a core that something else had, or data (and
    # Python's lock). Where it is a core, more cores would help; where it is data, faster storage.
    core_wait_ms_a_frame: float | None = None
    data_wait_ms_a_frame: float | None = None

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
    decoder = _Decoder()
    count = 0
    for clip in arriving:
        count += distinct_frames(clip)
        decoder.look()
    core, data = decoder.waits()
    return Flow(
        frames_per_second=count / (time.perf_counter() - started),
        cpu_ms_a_frame=1000 * (_cpu_seconds() - cpu) / count,
        first_seconds=first,
        core_wait_ms_a_frame=None if core is None else 1000 * core / count,
        data_wait_ms_a_frame=None if data is None else 1000 * data / count,
    )


class _Decoder:
    """The thread that decodes the clips which are arriving, from now on. It ends with the last of them, or before."""

    def __init__(self) -> None:
        alive = [thread.native_id for thread in threading.enumerate() if thread.name == THREAD]
        self._id = alive[-1] if alive else None  # the one begun last
        self._first = self._last = self._now()

    def look(self) -> None:
        self._last = self._now() or self._last

    def waits(self) -> tuple[float | None, float | None]:
        """Seconds between the first and the last look in which it waited for a core, and for data."""
        first, last = self._first, self._last
        if first is None or last is None:
            return None, None
        core = last.queued - first.queued
        return core, max(last.at - first.at - (last.running - first.running) - core, 0.0)

    def _now(self) -> ThreadTimes | None:
        return None if self._id is None else ThreadTimes.read(self._id)


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
