from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.timing import StageClock, contention, measure_runtime, rounds
from vodbench.timing.attribution import frame_costs
from vodbench.timing.contention import CpuCount, count_neighbours, cpu_share
from vodbench.timing.counting import PeakTensorBytes, count
from vodbench.timing.passes import OTHER, Pass, timed_pass
from vodbench.timing.runtime import mean_interval, mean_stages, measure_sample
from vodbench.timing.sample import Sample, sample_snippets

CPU = torch.device("cpu")
IMAGES = [np.full((16, 24, 3), 10 * i, np.uint8) for i in range(12)]


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the machine were idle: what is measured, not whether it is accepted."""
    monkeypatch.setattr(rounds, "MIN_CPU_SHARE", 0.0)
    monkeypatch.setattr(rounds, "MAX_PRESSURE", 1e9)


@pytest.fixture
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock counts this thread's CPU time only, so that a figure is the same on a machine that is busy."""
    monkeypatch.setattr(time, "perf_counter", time.thread_time)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


# ---- clock --------------------------------------------------------------------------------------------------


def test_stages_add_up_between_takes(plain: ModuleType, own_time: None) -> None:
    clock = StageClock()
    for _ in range(2):
        with clock.stage("a"):
            plain.burn(3)
    with clock.stage("b"):
        pass
    taken = clock.take_ms()
    assert taken["a"] >= 6
    assert 0 <= taken["b"] < 3
    assert clock.take_ms() == {}


def test_nested_stages_are_a_fault() -> None:
    clock = StageClock()
    inner = clock.stage("inner")
    with clock.stage("outer"), pytest.raises(AssertionError, match="'inner' starts inside stage 'outer'"):
        inner.__enter__()


def test_a_stage_costs_microseconds() -> None:
    clock = StageClock()
    start = time.thread_time()
    for _ in range(2000):
        with clock.stage("a"):
            pass
    assert (time.thread_time() - start) / 2000 < 50e-6


# ---- attribution --------------------------------------------------------------------------------------------


def test_close_is_shared_by_the_pushes_it_answers() -> None:
    """Look-ahead 2, own work 3 a frame, the rest 5: every frame costs 8."""
    costs = frame_costs([3, 3, 8, 8, 8], [0, 0, 1, 1, 1], close=10)
    assert costs.tolist() == [8, 8, 8, 8, 8]


@pytest.mark.parametrize("returned", [[1, 1, 1, 1], [0, 0, 0, 0], [0, 2, 0, 2], [0, 0, 1, 1]])
def test_costs_sum_to_the_total(returned: list[int]) -> None:
    assert frame_costs([1.0, 2.0, 3.0, 4.0], returned, 6.0).sum() == pytest.approx(16.0)
    assert len(frame_costs([], [], 1.0)) == 0


# ---- passes -------------------------------------------------------------------------------------------------


def test_a_pass_agrees_with_what_was_burnt(plain: ModuleType, own_time: None) -> None:
    config = plain.PlainConfig(T=3, backbone_ms=4, relation_ms=2)
    timed_pass(partial(plain.PlainMethod(config).stream, config), IMAGES, CPU)  # first calls are slow
    done = timed_pass(partial(plain.PlainMethod(config).stream, config), IMAGES, CPU)
    assert len(done.frame_ms) == 12
    assert done.latency_frames == 3
    assert (done.frame_ms >= 6).all()  # the first three got their share of close()
    assert done.stage_ms["backbone"] >= 12 * 4
    assert done.stage_ms["relation"] >= 12 * 2
    assert sum(done.stage_ms.values()) == pytest.approx(done.total_ms, rel=1e-9)
    # A method whose work is all in stages: what is outside must be small, or the split hides something.
    assert done.stage_ms[OTHER] < 0.02 * done.total_ms


def test_drawing_frames_is_not_counted(plain: ModuleType, own_time: None) -> None:
    config = plain.PlainConfig(backbone_ms=1)

    def slow() -> Iterator[Any]:
        for image in IMAGES[:3]:
            plain.burn(30)
            yield image

    done = timed_pass(partial(plain.PlainMethod(config).stream, config), slow(), CPU)
    assert len(done.frame_ms) == 3
    assert np.median(done.frame_ms) < 30


def test_a_pass_that_loses_frames_is_a_fault(plain: ModuleType) -> None:
    config = plain.PlainConfig(lose_at=0)
    with pytest.raises(AssertionError, match="took 12 frames and returned detections of 11"):
        timed_pass(partial(plain.PlainMethod(config).stream, config), IMAGES, CPU)


# ---- counting -----------------------------------------------------------------------------------------------


def test_operations_of_a_linear_layer(plain: ModuleType) -> None:
    config = plain.PlainConfig(width=7)
    method = plain.PlainMethod(config)
    counted = count(method, partial(method.stream, config), IMAGES, latency_frames=0)
    assert counted.gflops == pytest.approx(2 * 16 * 24 * 3 * 7 / 1e9, rel=1e-12)
    assert counted.steady


def test_a_short_snippet_is_counted_whole(plain: ModuleType) -> None:
    config = plain.PlainConfig(width=7, T=5)
    method = plain.PlainMethod(config)
    counted = count(method, partial(method.stream, config), IMAGES, latency_frames=5)
    assert counted.gflops == pytest.approx(2 * 16 * 24 * 3 * 7 / 1e9, rel=1e-12)
    assert not counted.steady


class Convolutions(torch.nn.Module):
    """A stream that convolves: 3 -> 5 channels, 3 x 3, no padding, then attention over its 14 x 22 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 5, 3, bias=False)
        self.config: Any = None

    def stream(self, config: Any = None, clock: Any = None) -> Any:
        return self

    def push(self, image: np.ndarray) -> list[int]:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        y = self.conv(x).flatten(2).transpose(1, 2)[None]
        torch.nn.functional.scaled_dot_product_attention(y, y, y)
        return [0]

    def close(self) -> list[int]:
        return []


def test_operations_of_a_convolution_and_attention() -> None:
    method, positions = Convolutions(), 14 * 22
    convolution = 2 * positions * 5 * 3 * 9
    attention = 2 * (2 * positions * positions * 5)
    counted = count(method, method.stream, IMAGES, latency_frames=0)  # type: ignore[arg-type]
    assert counted.gflops == pytest.approx((convolution + attention) / 1e9, rel=1e-12)


def test_peak_bytes_of_tensors() -> None:
    weight = torch.zeros(1000, dtype=torch.float32)
    with torch.inference_mode(), PeakTensorBytes([weight, weight[:10]]) as memory:
        a = torch.zeros(500)
        view = a[:5]
        b = a + 1
        del a
        assert memory.current == 4000 + 2000 + 2000  # the view keeps a's storage
        del view, b
        assert memory.current == 4000
        torch.zeros(250)
    assert memory.peak == 8000


# ---- contention ---------------------------------------------------------------------------------------------


def test_cpu_share_of_readings() -> None:
    assert cpu_share(CpuCount(1.0, 10.0), CpuCount(2.0, 11.25)) == pytest.approx(0.8)
    assert cpu_share(CpuCount(1.0, None), CpuCount(2.0, None)) is None


def test_a_planted_busy_process_is_noticed() -> None:
    """More spinning processes than CPUs must take at least a quarter of this thread's time."""
    with busy_processes(2 * (os.cpu_count() or 1)):
        watch = contention.PressureWatch()
        before = CpuCount.read(1)
        end = time.perf_counter() + 1.5
        while time.perf_counter() < end:
            pass
        share = cpu_share(before, CpuCount.read(1))
        assert share is not None
        assert share < 0.75
        before = CpuCount.read(2)
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            pass
        several = cpu_share(before, CpuCount.read(2))
        assert several is None or several < 0.75  # None: this kernel does not count run delays
        pressure = watch.share()
        assert pressure is None or pressure > contention.MAX_PRESSURE


def test_gpu_listing() -> None:
    assert count_neighbours("", 7) == 0
    assert count_neighbours("7\n", 7) == 0
    assert count_neighbours("7\n8\n9\n", 7) == 2
    assert count_neighbours("4711\n", 7) == 0  # ours, under the host's number
    assert count_neighbours("4711\n4712\n", 7) == 1


def fake_pass(share: float) -> Pass:
    return Pass(np.ones(2), {}, 0, share)


def test_disturbed_rounds_are_repeated(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MAX_PRESSURE", 1e9)
    shares = iter([1.0, 0.5, 0.99, 0.98])
    infos = plain.PlainData("").snippets("val")[:1]
    done = rounds.measure_rounds(lambda _: fake_pass(next(shares)), infos, repeats=3, device=CPU)
    assert not done.contended
    assert [p.cpu_share for p in done.passes] == [1.0, 0.99, 0.98]
    assert "1 disturbed rounds were repeated" in done.notes


def test_at_last_a_disturbed_measurement_is_marked(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MAX_PRESSURE", 1e9)
    shares = iter([0.5, 0.6, 1.0, 0.7, 0.5, 0.4])
    infos = plain.PlainData("").snippets("val")[:1]
    done = rounds.measure_rounds(lambda _: fake_pass(next(shares)), infos, repeats=2, device=CPU)
    assert done.contended
    assert sorted(p.cpu_share or 0 for p in done.passes) == [0.7, 1.0]
    assert done.notes[0].startswith("contended: 1 of 6 rounds were undisturbed (the CPU was ours for 40% of a pass)")


def test_pressure_alone_marks_it(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = iter(range(1000))
    monkeypatch.setattr(contention, "pressure_total", lambda: float(next(totals)))
    infos = plain.PlainData("").snippets("val")[:1]
    done = rounds.measure_rounds(lambda _: fake_pass(1.0), infos, repeats=1, device=CPU)
    assert done.contended
    assert "tasks waited for a CPU 50% of the time" in done.notes[0]


def test_no_pressure_information_is_said(plain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_PRESSURE", Path("/nowhere"))
    infos = plain.PlainData("").snippets("val")[:1]
    done = rounds.measure_rounds(lambda _: fake_pass(1.0), infos, repeats=1, device=CPU)
    assert not done.contended
    assert "no pressure stall information" in done.notes[0]


# ---- the measurement ----------------------------------------------------------------------------------------


def source(**options: Any) -> DataSource:
    return DataSource(root="nowhere", kind="plain", options=options)


def test_runtime_of_a_look_ahead_method(plain: ModuleType, idle: None, own_time: None) -> None:
    config = plain.PlainConfig(T=2, backbone_ms=3, relation_ms=1, width=5)
    measured = measure_runtime(
        plain.PlainMethod(config), config, source(frames=10), "val", num_snippets=2, repeats=2, name="plain"
    )
    assert measured.median_ms >= 4
    assert measured.low_ms <= measured.mean_ms <= measured.high_ms
    assert measured.median_ms <= measured.p95_ms <= measured.p99_ms
    assert measured.fps == pytest.approx(1e3 / measured.mean_ms)
    assert sum(measured.stage_ms.values()) == pytest.approx(measured.mean_ms, rel=0.02)
    assert measured.stage_ms["backbone"] >= 3
    assert measured.stage_ms["relation"] >= 1
    assert measured.gflops == pytest.approx(2 * 16 * 24 * 3 * 5 / 1e9)
    assert measured.latency_frames == 2
    assert measured.num_frames % 2 == 0
    assert measured.decode_ms > 0
    assert measured.peak_memory_mb >= 16 * 24 * (3 + 5) * 4 / 1e6
    assert (measured.device, measured.threads) == ("cpu", 1)
    assert "NMS" in measured.note


def test_a_busy_machine_is_reported(plain: ModuleType) -> None:
    config = plain.PlainConfig(backbone_ms=20)
    with busy_processes(2 * (os.cpu_count() or 1)):
        measured = measure_runtime(plain.PlainMethod(config), config, source(), "val", num_snippets=1, repeats=1)
    assert measured.contended
    assert measured.note.startswith("contended: 0 of 3 rounds")


def test_a_wrong_latency_is_a_fault(plain: ModuleType, idle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain.PlainConfig(T=2)
    wrong = type("Spec", (), {"latency_frames": staticmethod(lambda config: 1)})
    monkeypatch.setattr("vodbench.timing.runtime.method_spec", lambda name: wrong)
    with pytest.raises(AssertionError, match="declares a latency of 1 frames, but 2 were owed"):
        measure_runtime(plain.PlainMethod(config), config, source(), "val", num_snippets=1, repeats=1, name="plain")


def test_the_interval_of_the_mean_covers_it() -> None:
    """Passes from one known distribution: about 38 of 40 intervals must hold its mean."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(40):
        low, high = mean_interval([rng.exponential(1.0, 30) for _ in range(24)], seed=trial)
        hits += low <= 1.0 <= high
    assert hits >= 33  # fewer have a probability below 1% at 95% coverage
    low, high = mean_interval([rng.exponential(1.0, 100)], seed=0)
    assert 0.7 < low < high < 1.4


def test_stage_means_weigh_frames() -> None:
    passes = [Pass(np.ones(1), {"a": 10.0}, 0, 1.0), Pass(np.ones(3), {"a": 2.0, "b": 4.0}, 0, 1.0)]
    assert mean_stages(passes) == {"a": 3.0, "b": 1.0}


def test_the_sample_is_seeded_and_in_order(plain: ModuleType) -> None:
    data = plain.PlainData("", snippets=20)
    chosen = [s.id for s in sample_snippets(data, "val", 5, seed=3)]
    assert chosen == [s.id for s in sample_snippets(data, "val", 5, seed=3)]
    assert chosen == sorted(chosen, key=lambda s: int(s[1:]))
    assert chosen != [s.id for s in sample_snippets(data, "val", 5, seed=4)]
    assert len(sample_snippets(data, "val", 99, seed=0)) == 20


def test_frames_beyond_the_memory_are_decoded_later(plain: ModuleType) -> None:
    data = plain.PlainData("")
    infos = data.snippets("val")
    whole, part = Sample(data, "val", infos), Sample(data, "val", infos, kept_bytes=3 * 16 * 24 * 3)
    assert len(part.decode_seconds) == 3
    for info in infos:
        pairs = zip(whole.annotated(info), part.annotated(info), strict=True)
        assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in pairs)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"num_snippets": 0}, "num_snippets = 0"), ({"threads": 0}, "threads = 0"), ({"repeats": -1}, "repeats = -1")],
)
def test_bad_numbers(plain: ModuleType, given: dict[str, int], message: str) -> None:
    config = plain.PlainConfig()
    with pytest.raises(UserError, match=message):
        measure_runtime(plain.PlainMethod(config), config, source(), "val", **{"num_snippets": 1, **given})


def test_a_sample_without_a_decodable_frame(plain: ModuleType) -> None:
    config = plain.PlainConfig()
    data = source(snippets=1, frames=1, bad="s0/0", skip_bad=True)
    with pytest.raises(UserError, match="none of the sampled snippets"):
        measure_runtime(plain.PlainMethod(config), config, data, "val", num_snippets=1)


# ---- the bench ----------------------------------------------------------------------------------------------


def test_bench_compares_within_one_run(
    plain: ModuleType, idle: None, own_time: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from vodbench.bench import runtime as bench

    bench.command(method=["plain"], baseline="plain", size=32, frames=4, snippets=1, repeats=1, device="cpu", json=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["baseline"] == "plain"
    assert found["plain_gflops"] == pytest.approx(2 * 32 * 53 * 3 * 8 / 1e9)
    fast, slow = (plain.PlainConfig(backbone_ms=ms) for ms in (2, 8))
    frames = bench.MadeUpFrames(1, 5, 32)
    measured = {n: measure_sample(plain.PlainMethod(c), c, frames, repeats=1) for n, c in [("a", fast), ("b", slow)]}
    assert 2 < bench.figures(measured, "a")["b_over_a"] < 6


def test_bench_names_the_presets_there_are(plain: ModuleType) -> None:
    from vodbench.bench import runtime as bench

    with pytest.raises(UserError, match=r"unknown preset of plain 'huge': .*accepted: paper, tiny"):
        bench.command(method=["plain"], baseline="plain", preset="huge")
    with pytest.raises(UserError, match=r"--size 3 is not accepted"):
        bench.command(method=["plain"], baseline="plain", size=3)
