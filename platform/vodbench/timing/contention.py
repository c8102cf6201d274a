"""Did something else run beside a measurement?

Load averages and canary loops miss short neighbours. Two figures do not (both counted by the kernel):

- the share of the wall time that the measuring thread was on a CPU. Nothing in a pass waits for input, so one thread
  that computes is always on a CPU unless something takes it away. With several threads the work is not perfectly
  parallel and CPU time / wall says nothing; then the time that runnable threads of this process waited for a CPU
  (``/proc/self/task/*/schedstat``) is held against the CPU time they got.
- pressure stall information, "some": the share of the time in which any task of the machine waited for a CPU.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch

MIN_CPU_SHARE = 0.97
MAX_PRESSURE = 0.05

# The kernel folds stalls into the total every two seconds: what it adds may be that old.
PRESSURE_PERIOD_S = 2.0

_PRESSURE = Path("/proc/pressure/cpu")
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class CpuCount:
    """A reading of the CPU time that was used and asked for, in seconds. Differences of two readings mean something."""

    used: float
    asked: float | None  # None where the kernel does not say

    @staticmethod
    def read(threads: int) -> CpuCount:
        if threads == 1:  # this thread alone: a busy thread beside it must not make up for stolen time
            return CpuCount(time.thread_time(), time.perf_counter())
        used, delay = time.process_time(), _run_delay()
        return CpuCount(used, None if delay is None else used + delay)


def cpu_share(before: CpuCount, after: CpuCount) -> float | None:
    """Share of the CPU time asked for that was given; 1 (up to clock resolution) is an undisturbed pass.

    None when several threads compute and the kernel does not count how long they waited.
    """
    if before.asked is None or after.asked is None:
        return None
    asked = after.asked - before.asked
    return (after.used - before.used) / asked if asked > 0 else 1.0


def _run_delay() -> float | None:
    """Seconds that this process's threads were runnable but not running, since they started."""
    try:
        return 1e-9 * sum(int((task / "schedstat").read_text().split()[1]) for task in _TASKS.iterdir())
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """What one thread of this process did since it started, in seconds, and when that was read."""

    running: float
    queued: float  # runnable, while something else had the CPU
    at: float

    @staticmethod
    def read(native_id: int) -> ThreadTimes | None:
        """None where the kernel does not say, or no longer, as the thread has ended."""
        try:
            running, queued, *_ = (_TASKS / str(native_id) / "schedstat").read_text().split()
            return ThreadTimes(1e-9 * int(running), 1e-9 * int(queued), time.perf_counter())
        except (OSError, ValueError):
            return None


def pressure_total() -> float | None:
    """Seconds in which some task waited for a CPU, since the machine started; None where the kernel does not say."""
    try:
        some = _PRESSURE.read_text().splitlines()[0]
        return 1e-6 * int(some.rsplit("total=", 1)[1])
    except (OSError, IndexError, ValueError):
        return None


class PressureWatch:
    """Pressure of the machine from now on."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._total = pressure_total()

    def share(self) -> float | None:
        """Share of the time since the start in which some task waited for a CPU; None where nothing counts it."""
        now = pressure_total()
        if now is None or self._total is None:
            return None
        return (now - self._total) / max(time.perf_counter() - self._start, PRESSURE_PERIOD_S)


def gpu_neighbours(device: torch.device) -> int | None:
    """Other processes that compute on this CUDA device; None where the driver's tool cannot be asked.

    Inside a container the driver shows process ids of the host (or none): when ours is not among them, one of those
    shown is taken for ours.
    """
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={uuid}", "--query-compute-apps=pid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return count_neighbours(done.stdout, os.getpid())


def count_neighbours(listing: str, own_pid: int) -> int:
    """Processes other than ours in the driver's listing (one process id a line)."""
    pids = {line.strip() for line in listing.splitlines() if line.strip()}
    return max(len(pids) - 1, 0) if str(own_pid) not in pids else len(pids - {str(own_pid)})
