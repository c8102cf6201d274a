"""What a sweep's times are made of, told apart again: made-up times with known parts."""

from __future__ import annotations

import pytest

from vodbench.plan.costs import FrameRate
from vodbench.plan.fits import fitted_measurements, fitted_passes, fitted_training
from vodbench.records import Runtime, TrialRecord


def curve(iterations: int, start_s: float, clip_s: float, batch_size: int = 4) -> tuple[float, list[dict[str, float]]]:
    """(seconds, points) of a training whose first step waits ``start_s`` for its clips."""
    every = max(1, iterations // 100)
    points, before = [], 0
    for iteration in [*range(every, iterations, every), iterations]:
        clips = (iteration - before) * batch_size
        seconds = clips * clip_s + (0.0 if before else start_s)
        points.append({"iteration": float(iteration), "clips_per_second": clips / seconds})
        before = iteration
    return start_s + iterations * batch_size * clip_s, points


@pytest.mark.parametrize("iterations", [60, 300, 1100])
def test_a_short_training_tells_what_a_long_one_takes(iterations: int) -> None:
    seconds, points = curve(iterations, start_s=3.5, clip_s=0.01)
    start, clip = fitted_training(seconds, points, 4)
    assert (start, clip) == (pytest.approx(3.5), pytest.approx(0.01))
    steady, points = curve(iterations, start_s=0.0, clip_s=0.02)
    assert fitted_training(steady, points, 4) == (pytest.approx(0.0), pytest.approx(0.02))


def test_the_parts_of_a_training_are_all_of_it() -> None:
    """Also where it slows down later, and in one that is too short to have a curve."""
    points = [{"iteration": float(10 * (i + 1)), "clips_per_second": 1.0 if i in (0, 7) else 20.0} for i in range(20)]
    start, clip = fitted_training(200.0, points, 4)
    assert start + clip * 800 == pytest.approx(200.0)
    assert fitted_training(6.0, points[:1], 4) == (0.0, pytest.approx(6.0 / 40))
    assert fitted_training(6.0, [], 4) == (0.0, 6.0)


def measured(mean_ms: float, rounds: int | None) -> TrialRecord:
    """A trial whose measurement took 0.3 s, and five passes over 12 sampled frames where nothing disturbed it."""
    ms = mean_ms
    runtime = Runtime(
        median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1e3 / ms, stage_ms={}, decode_ms=0.1,
        gflops=0.1, peak_memory_mb=1.0, latency_frames=0, num_frames=36, device="cpu", threads=1, contended=False,
        rounds=rounds,
    )  # fmt: skip
    seconds = 0.3 + 5 * (12 * ms / 1e3) * (rounds or 3) / 3
    return TrialRecord(
        fingerprint="f", study="s", method="m", paper="p", config={}, knobs={}, seed=0, status="complete",
        runtime=runtime, seconds={"runtime": seconds},
    )  # fmt: skip


@pytest.mark.parametrize("rounds", [(3, 3, 3), (9, 3, 6), (9, 9, 9), (None, None, None)])
def test_repeated_rounds_are_no_part_of_an_undisturbed_measurement(rounds: tuple[int | None, ...]) -> None:
    records = [measured(ms, tried) for ms, tried in zip((4.0, 9.0, 15.0), rounds, strict=True)]
    assert fitted_measurements(records) == (pytest.approx(0.3), pytest.approx(5.0))


def test_a_pass_is_a_start_and_its_frames() -> None:
    frames = {name: FrameRate(method="m", encode_ms=20.0, own_ms=own) for name, own in (("a", 5.0), ("b", 15.0))}

    def noted(names: list[str], first_s: float = 0.0) -> dict[str, object]:
        computed = 300.0 * len(names)
        inside = 300 * (0.02 + sum((frames[name].own_ms or 0.0) / 1e3 for name in names)) / 2
        return {
            "trials": names,
            "frames": computed,
            "workers": 2,
            "seconds": first_s + 1.5 + inside + 0.004 * computed / 2,
        }

    passes = [noted(["a"], first_s=12.0), noted(["a", "b"]), noted(["b"])]
    assert fitted_passes(passes, frames) == (pytest.approx(1.5), pytest.approx(0.004), pytest.approx(12.0))
    assert fitted_passes([], frames) == (0.0, 0.0, 0.0)
