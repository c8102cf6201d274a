"""A PostgreSQL that is paused in the middle: everything it has is still there, and nothing answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest

from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import postgresql
from vodbench.tracking.delivery import Delivery
from vodbench.tracking.optuna_study import study_name
from vodbench.tracking.recorder import MLFLOW, OPTUNA_STUDY, Kind, Recorder, sync

pytestmark = pytest.mark.slow


@contextmanager
def paused(url: str) -> Iterator[None]:
    """All its processes stand still; the system beneath still takes connections and bytes."""
    import psycopg2

    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    server = psutil.Process(psutil.Process(connection.info.backend_pid).ppid())
    server.suspend()  # first: it makes the others
    processes = [server, *server.children()]
    try:
        for process in processes[1:]:
            process.suspend()
        yield
    finally:
        for process in processes:
            process.resume()
        connection.close()


def record(number: int) -> TrialRecord:
    return TrialRecord(
        fingerprint=f"f{number}", study="paused", method="rdn", paper="P", config={}, knobs={"T": number}, seed=0,
        status="complete", started=f"2026-01-01T00:00:{number:02d}+00:00", seconds={},
        accuracy=Accuracy(protocol="ilsvrc", map=0.1 * number, low=0.0, high=0.9),
        runtime=Runtime(median_ms=9, p95_ms=9, p99_ms=9, mean_ms=9, low_ms=9, high_ms=9, fps=1, stage_ms={},
                        decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=2, num_frames=9, device="cpu",
                        threads=1, contended=False),
    )  # fmt: skip


@pytest.fixture
def database(postgres: Callable[[str], str]) -> Iterator[str]:
    """Of this test alone."""
    import psycopg2

    server = psycopg2.connect(postgres("postgres").replace("+psycopg2", ""))
    server.autocommit = True  # a database is not made in a transaction
    server.cursor().execute("create database paused")
    yield postgres("paused")
    server.cursor().execute("drop database paused with (force)")
    server.close()


@pytest.mark.parametrize("kind", [OPTUNA_STUDY, MLFLOW], ids=lambda kind: kind.name)
def test_it_does_not_hold_the_end_of_a_sweep(
    kind: Kind, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 1.0)
    monkeypatch.chdir(tmp_path)  # MLflow's files, where its tracking is a database
    folder = StudyFolder(str(tmp_path / "run"))
    study = {"name": "paused", "title": "t", "methods": [{"method": "rdn", "knobs": {"T": [1, 2, 3]}}]}
    folder.claim(parse_study(study, "paused"), "data")
    warnings: list[str] = []
    recorder = Recorder(database, folder, warnings.append, kind)
    recorder.deliver([record(1)])
    recorder._thread.submit(lambda: None).result()
    assert warnings == []
    with paused(database):
        recorder.deliver([record(2)])
        assert not recorder.finish([record(1), record(2), record(3)], complete=True)
    assert len(warnings) == 2
    assert all("no answer in 1 s" in warning for warning in warnings)
    assert capfd.readouterr() == ("", "")
    assert sync(folder, [record(1), record(2), record(3)], database, kind) == 2
    assert sync(folder, [record(1), record(2), record(3)], database, kind) == 0
    if kind is OPTUNA_STUDY:
        there = optuna.load_study(study_name=study_name(folder), storage=database).get_trials()
        assert [trial.params["rdn.T"] for trial in there] == [1, 2, 3]
    else:
        assert set(Delivery(database, folder).trials()) == {"f1", "f2", "f3"}
