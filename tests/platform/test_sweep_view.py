"""The view of a running sweep, as a terminal and as a log see it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from vodbench import cluster
from vodbench.cli import sweep
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.sweeps import progress as progress_module
from vodbench.sweeps.progress import SweepProgress


def record(name: str, accuracy: float, runtime_ms: float) -> TrialRecord:
    runtime = Runtime(
        median_ms=runtime_ms,
        p95_ms=runtime_ms,
        p99_ms=runtime_ms,
        mean_ms=runtime_ms,
        low_ms=runtime_ms,
        high_ms=runtime_ms,
        fps=1e3 / runtime_ms,
        stage_ms={},
        decode_ms=0.0,
        gflops=None,
        peak_memory_mb=1.0,
        latency_frames=0,
        num_frames=1,
        device="cpu",
        threads=1,
        contended=False,
    )
    return TrialRecord(
        fingerprint=name,
        study="s",
        method=name,
        paper="",
        config={},
        knobs={},
        seed=0,
        status="complete",
        accuracy=Accuracy(protocol="ilsvrc", map=accuracy, low=accuracy, high=accuracy),
        runtime=runtime,
    )


def failed(name: str, reason: str) -> TrialRecord:
    return replace(record(name, 0.0, 1.0), status="failed", accuracy=None, runtime=None, reason=reason)


def shown(*, terminal: bool, quiet: bool = False, width: int = 100) -> str:
    """What a sweep of four trials leaves, with its last drawing while one of them is running."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=width, height=30, color_system=None)
    with SweepProgress(console, 4, 1, known=[record("first", 0.5, 5.0)], quiet=quiet) as progress:
        progress.doing("a", "fast", "training detector", 30, 900)
        progress.doing("b", "long " * 30, "detecting", 1, 10)
        progress.ended("a", [record("fast", 0.4, 2.0), record("beaten", 0.3, 9.0)])
        progress.ended("c", [failed("broken", "out of [memory]")])
        if terminal and not quiet:
            progress._view._live.refresh()  # type: ignore[attr-defined]
    return screen.getvalue()


def test_a_terminal_sees_trials_steps_front_and_failures() -> None:
    text = shown(terminal=True)
    last = text[text.rindex("front so far") - 800 :]
    assert "4/4" in last
    assert "1/10" in last
    assert "fast: training" not in last, "it has ended"
    table = last[last.index("front so far (2 trials)") :].splitlines()
    assert [row.split()[:3] for row in table[1:3]] == [["first", "0.500", "5.0"], ["fast", "0.400", "2.0"]]
    assert "1 failed, last:" in last
    assert "broken: out of [memory]" in last


@pytest.mark.parametrize("width", [40, 60, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = shown(terminal=True, width=width).replace("\r", "\n").splitlines()
    assert max(len(line.partition("\x1b")[0]) for line in lines) <= width


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True), (False, True)])
def test_a_log_gets_one_line_a_trial(terminal: bool, quiet: bool) -> None:
    lines = shown(terminal=terminal, quiet=quiet).splitlines()
    assert [line.split()[0] for line in lines] == ["fast", "beaten", "broken"]
    assert "\x1b[2K" not in "".join(lines)
    assert lines[-1].endswith("failed out of [memory]")


def test_json_comes_after_all_that_ray_has_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray prints what warnings it has kept back to standard output when it ends; the object is the last line."""
    said: list[str] = []
    monkeypatch.setattr(cluster, "stop_ray", lambda: said.append("ray"))
    monkeypatch.setattr(sweep, "run", lambda asked: None)
    monkeypatch.setattr(sweep, "_figures", lambda swept: {})
    monkeypatch.setattr(sweep, "print_json", lambda figures: said.append("json"))
    sweep.command("study", json=True)
    assert said == ["ray", "json"]


def test_lines_of_trials_that_end_within_moments_are_printed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    screen = io.StringIO()

    def printed() -> list[str]:
        return [line.split()[0] for line in screen.getvalue().splitlines()]

    with SweepProgress(Console(file=screen, width=100), 4) as progress:
        progress.ended("a", [record("a", 0.4, 2.0)])
        assert printed() == ["a"], "the first at once"
        progress.ended("b", [record("b", 0.4, 2.0)])
        progress.ended("c", [failed("c", "why")])
        progress.print_when_due()
        assert printed() == ["a"]
        now += 0.5
        progress.print_when_due()
        assert printed() == ["a", "b", "c"]
        progress.ended("d", [record("d", 0.4, 2.0)])
        assert printed() == ["a", "b", "c"]
    assert printed() == ["a", "b", "c", "d"], "the last when the sweep has ended"
