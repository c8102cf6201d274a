"""What follows from a trial that ended: at once where nothing was written lately, soon where trials end fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vodbench.front.hypervolume import FILE, Step
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.sweeps import journal
from vodbench.sweeps.journal import Journal


class Told:
    """In place of a recorder."""

    def __init__(self, folder: Path) -> None:
        self.batches: list[tuple[list[str], list[str]]] = []
        self._history = folder / FILE

    def deliver(self, records: Sequence[TrialRecord], steps: Sequence[Step] = ()) -> None:
        assert all(step.trial in self._history.read_text() for step in steps), "on disk before anybody is told"
        self.batches.append(([r.fingerprint for r in records], [step.trial for step in steps]))


def ended(name: str) -> TrialRecord:
    ms = dict.fromkeys(("median_ms", "p95_ms", "p99_ms", "mean_ms", "low_ms", "high_ms", "decode_ms"), 10.0)
    return TrialRecord(
        fingerprint=name, study="s", method="m", paper="", config={}, knobs={}, seed=0, status="complete",
        started="2026-01-01T00:00:00+00:00", accuracy=Accuracy(protocol="ilsvrc", map=0.5, low=0.4, high=0.6),
        runtime=Runtime(**ms, fps=100.0, stage_ms={}, gflops=None, peak_memory_mb=1.0, latency_frames=0, num_frames=1,
                        device="none", threads=1, contended=False),
    )  # fmt: skip


def test_trials_that_end_fast_are_written_down_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    known: dict[str, TrialRecord] = {}
    told: Any = Told(tmp_path)
    book = Journal(str(tmp_path), known, [told])

    def add(name: str) -> None:
        known[name] = ended(name)
        book.add(known[name])

    add("a")
    assert told.batches == [(["a"], ["a"])], "the first at once"
    add("b")
    add("c")
    book.write_when_due()
    assert len(told.batches) == 1
    now += journal.SECONDS
    book.write_when_due()
    assert told.batches[1:] == [(["b", "c"], ["a", "b", "c"])]
    now += journal.SECONDS
    book.write_when_due()
    assert len(told.batches) == 2, "nothing new"
    add("d")
    assert told.batches[2:] == [(["d"], ["a", "b", "c", "d"])]
