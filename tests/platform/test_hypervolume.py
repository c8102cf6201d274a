"""The hypervolume of fronts: against Optuna's and by definition, and its history in a study folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vodbench.errors import UserError
from vodbench.front.hypervolume import FASTEST_MS, FILE, SLOWEST_MS, history, hypervolume, write_history
from vodbench.records import Accuracy, Runtime, TrialRecord


def record(name: str, mean_ap: float, ms: float, second: int = 0, **changes: object) -> TrialRecord:
    figures = {
        "accuracy": Accuracy(protocol="ilsvrc", map=mean_ap, low=mean_ap, high=mean_ap),
        "runtime": Runtime(
            median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms, stage_ms={},
            decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=0, num_frames=9, device="cpu", threads=1,
            contended=False,
        ),
        "status": "complete",
        **changes,
    }  # fmt: skip
    return TrialRecord(
        fingerprint=name, study="s", method="m", paper="", config={}, knobs={}, seed=0,
        started=f"2026-01-01T00:00:{second:02}+00:00", **figures,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_it_is_optunas_hypervolume_over_logarithmic_runtimes(count: int) -> None:
    compute = pytest.importorskip("optuna._hypervolume").compute_hypervolume
    rng = np.random.default_rng(count)
    gain, cost_ms = rng.random(count), 10 ** rng.uniform(0, 4, count)
    losses = np.stack((-gain, np.log10(cost_ms)), axis=1)
    expected = compute(losses, np.array([0.0, math.log10(SLOWEST_MS)])) / math.log10(SLOWEST_MS / FASTEST_MS)
    assert hypervolume(gain, cost_ms) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_mean_over_budgets_of_the_best_map_within() -> None:
    rng = np.random.default_rng(0)
    gain, cost_ms = rng.random(9), 10 ** rng.uniform(-1, 5, 9)  # some faster and some slower than any budget
    budgets = 10 ** ((np.arange(40_000) + 0.5) / 10_000)
    best = [max((g for g, c in zip(gain, cost_ms, strict=True) if c <= budget), default=0.0) for budget in budgets]
    assert hypervolume(gain, cost_ms) == pytest.approx(np.mean(best), abs=1e-4)


def test_bounds_and_what_counts_nothing() -> None:
    assert hypervolume([], []) == 0
    assert hypervolume([1.0], [FASTEST_MS]) == 1
    assert hypervolume([1.0], [2 * SLOWEST_MS]) == 0
    assert hypervolume([0.5, math.nan, 0.9], [100.0, 1.0, math.nan]) == hypervolume([0.5], [100.0])
    better = hypervolume([0.5, 0.6], [100.0, 50.0])
    assert better > hypervolume([0.5], [100.0])
    assert hypervolume([0.5, 0.6, 0.4], [100.0, 50.0, 70.0]) == better, "a dominated trial changes nothing"


def test_steps_follow_the_order_of_ends_and_stay_when_trials_are_added(tmp_path: Path) -> None:
    first, second = record("b", 0.5, 100, 1), record("a", 0.6, 10, 2)
    failed = record("f", 0.0, 1, 0, status="failed", accuracy=None, runtime=None)
    steps = write_history(str(tmp_path), [second, failed, first])
    assert [(s.trial, s.hypervolume) for s in steps] == [("b", 0.25), ("a", 0.6 * 0.75)]
    # It began before the others, and ended after them: the folder remembers that they were there first.
    late = record("c", 0.9, 1000, 0)
    grown = write_history(str(tmp_path), [late, first, second])
    assert grown[:2] == steps
    assert grown[2].trial == "c"
    assert grown[2].hypervolume == pytest.approx(0.6 * 0.5 + 0.9 * 0.25)
    assert history(str(tmp_path), [late, first, second]) == grown
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["reference"] == {"map": 0.0, "runtime_ms": 10_000.0, "fastest_ms": 1.0}
    assert [step["trial"] for step in kept["steps"]] == ["b", "a", "c"]


def test_a_step_counts_all_trials_so_far_though_only_the_front_is_kept(tmp_path: Path) -> None:
    """With ties, and with trials whose accuracy is unknown."""
    rng = np.random.default_rng(0)
    gains = np.where(rng.random(60) < 0.2, np.nan, rng.integers(0, 12, 60) / 12).tolist()
    costs = rng.integers(1, 30, 60).tolist()
    records = [record(f"{n:02}", g, c, second=n) for n, (g, c) in enumerate(zip(gains, costs, strict=True))]
    found = [step.hypervolume for step in history(str(tmp_path), records)]
    wanted = [hypervolume(gains[: n + 1], costs[: n + 1]) for n in range(60)]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_without_its_file_the_history_is_made_from_the_records(tmp_path: Path) -> None:
    records = [record("a", 0.6, 10, 2), record("b", 0.5, 100, 1)]
    assert [step.trial for step in history(str(tmp_path), records)] == ["b", "a"]
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": [{}]}', '{"steps": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=r"hypervolume\.json' is damaged"):
        history(str(tmp_path), [])
