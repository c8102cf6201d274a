"""``vodbench bench data``: what it counts, and that it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Run, figures, refused

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.prefetch import prefetch
from vodbench.spec import ClipSpec
from vodbench.timing.contention import ThreadTimes
from vodbench_datasets.clips import bench as clips_bench
from vodbench_datasets.clips.bench import command
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.pipeline import plan_of
from vodbench_datasets.clips.throughput import Flow, _Decoder, decoding, distinct_frames, encoded_frames
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import bench as shards_bench


def test_frames_are_those_that_clips_decode(tmp_path: Path) -> None:
    """A frame that a clip shows twice is decoded once; the same frame in another clip again."""
    generate(str(tmp_path), GeneratorConfig(snippets=1, val_snippets=1, frames=3, size=48))
    data = DataSource(root=str(tmp_path)).open()
    clips = ClipSpec(num_supports=2, offset_low=-9, offset_high=9)
    frames = encoded_frames(data, clips, 20, seed=0)  # type: ignore[arg-type]
    plan = plan_of(data, clips, split="train", seed=0)  # type: ignore[arg-type]
    decoded = decode_block(read_block(data, "train", [plan[number] for number in range(20)]))
    assert len(frames) == sum(map(distinct_frames, decoded)) < 60
    flow = decoding(frames)
    assert flow.frames_per_second > 0
    assert flow.cpu_ms_a_frame > 0


def test_the_median_is_one_measurement() -> None:
    flows = [Flow(frames_per_second=speed, cpu_ms_a_frame=speed + 1) for speed in (5.0, 1.0, 3.0, 4.0)]
    assert Flow.median(flows) == flows[2]


def test_what_a_decoder_waited_for() -> None:
    """A thread that sleeps waits for data; one that computes beside others on the same core waits for that core."""
    if ThreadTimes.read(threading.get_native_id()) is None:
        pytest.skip("the kernel does not count how long threads wait for a core")
    cores = os.sched_getaffinity(0)

    def clips(wait: Callable[[], None]) -> Iterator[float]:
        os.sched_setaffinity(0, {min(cores)})  # of this thread, and of what it starts
        for _ in range(4):
            wait()
            yield time.perf_counter()

    def waits(wait: Callable[[], None]) -> tuple[float, float]:
        arriving = prefetch(lambda: clips(wait), depth=1)
        next(arriving)
        decoder = _Decoder()
        for _ in arriving:
            decoder.look()
        core, data = decoder.waits()
        assert core is not None
        assert data is not None
        return core, data

    core, data = waits(lambda: time.sleep(0.1))
    assert data > 0.15
    assert core < data
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as neighbour:
        os.sched_setaffinity(neighbour.pid, {min(cores)})
        core, data = waits(lambda: compute(0.3))
        neighbour.kill()
    assert core > 0.15
    assert data < core


def compute(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"clips": 31}, "--clips 31"), ({"supports": -1}, "--supports -1"), ({"size": 8}, "--size 8")],
)
def test_bad_numbers(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(**wrong)


@pytest.mark.parametrize("bench", ["data", "shards"])
@pytest.mark.parametrize("wrong", ["nonsense://place", ""])
def test_a_place_that_cannot_be_is_refused_before_anything_is_made(
    run: Run, bench: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (clips_bench, shards_bench):
        monkeypatch.setattr(module, "write_shards", None)
    refused(run("bench", bench, "--also", wrong), "'nonsense://place' cannot be opened" if wrong else "an empty name")


@pytest.mark.slow
def test_the_command(run: Run, tmp_path: Path) -> None:
    also = tmp_path / "store"
    arguments = ["bench", "data", "--clips", "32", "--size", "48", "--repeats", "1", "--also", str(also), "--json"]
    found = figures(run(*arguments))
    for place in ("local", "local2"):
        fraction = found[f"{place}_frames_per_second"] / found["decode_frames_per_second"]
        assert found[f"fraction_of_decode_{place}"] == pytest.approx(fraction)
        cpu = found[f"{place}_cpu_ms_a_frame"] / found["decode_cpu_ms_a_frame"]
        assert found[f"cpu_over_decode_{place}"] == pytest.approx(cpu)
        assert found[f"first_clip_seconds_{place}"] > 0
        for wait in ("core", "data"):
            assert found[f"{place}_{wait}_wait_ms_a_frame"] >= 0
    assert found["object_store_mib"] > 0
    assert list(also.iterdir()) == []
