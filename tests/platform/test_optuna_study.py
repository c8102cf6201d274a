"""The copy of a sweep in Optuna's storage: exactly the records, whatever happened before; never in the sweep's way."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import Run

from vodbench.errors import OutOfReachError, UserError
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import postgresql
from vodbench.tracking.optuna_study import OptunaStudy, open_storage, study_name
from vodbench.tracking.recorder import OPTUNA_STUDY, Recorder, sync

STUDY = {
    "name": "copied",
    "title": "A title",
    "methods": [
        {"method": "rdn", "knobs": {"T": [1, 4], "gain": {"low": 0, "high": 2}}},
        {"method": "thp", "knobs": {"mode": ["fast", "exact"], "linked": [False, True]}},
    ],
}


def record(number: int, method: str = "rdn", **changes: Any) -> TrialRecord:
    knobs = {"T": number, "gain": 0.5} if method == "rdn" else {"mode": "fast", "linked": True}
    whole = TrialRecord(
        fingerprint=f"{method}{number}", study="copied", method=method, paper="P", config={}, knobs=knobs, seed=0,
        status="complete", started=f"2026-01-01T00:00:{number:02d}+00:00", seconds={"train": 2.5},
        accuracy=Accuracy(protocol="ilsvrc", map=0.1 * number, low=0.0, high=0.9),
        runtime=Runtime(median_ms=9, p95_ms=9, p99_ms=9, mean_ms=10.0 * number, low_ms=9, high_ms=9, fps=1, stage_ms={},
                        decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=2, num_frames=9, device="cpu",
                        threads=1, contended=False),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def failed(number: int) -> TrialRecord:
    return record(number, status="failed", reason="out of luck", accuracy=None, runtime=None)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    made = StudyFolder(str(tmp_path))
    made.claim(parse_study(STUDY, "copied"), "data")
    return made


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def trials(folder: StudyFolder, url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study_name(folder), storage=url).get_trials()


def test_each_record_is_a_trial_with_its_real_values(folder: StudyFolder, url: str) -> None:
    assert sync(folder, [record(4), record(3, "thp"), failed(1)], url, OPTUNA_STUDY) == 3
    first, second, third = trials(folder, url)  # in the order they were run
    assert (first.state, first.user_attrs["reason"]) == (optuna.trial.TrialState.FAIL, "out of luck")
    assert second.params == {"method": "thp", "thp.mode": "fast", "thp.linked": True}
    assert third.params == {"method": "rdn", "rdn.T": 4, "rdn.gain": 0.5}
    assert third.values == [pytest.approx(0.4), 40.0]
    assert third.user_attrs["name"] == "rdn T=4 gain=0.5"
    assert third.duration is not None
    assert third.duration.total_seconds() == 2.5
    study = optuna.load_study(study_name=study_name(folder), storage=url)
    assert study.metric_names == ["mAP", "ms a frame"]
    assert [t.user_attrs["trial"] for t in study.best_trials] == ["thp3", "rdn4"]
    assert study.user_attrs["complete"]


def test_repeating_adds_nothing_and_what_changed_is_written_anew(folder: StudyFolder, url: str) -> None:
    assert sync(folder, [record(1), failed(4)], url, OPTUNA_STUDY) == 2
    assert sync(folder, [record(1), failed(4)], url, OPTUNA_STUDY) == 0
    sync(folder, [record(1), record(4)], url, OPTUNA_STUDY)
    assert [(t.params["rdn.T"], t.values) for t in trials(folder, url)] == [(1, [0.1, 10.0]), (4, [0.4, 40.0])]


def test_a_study_that_grows_keeps_its_trials(folder: StudyFolder, url: str) -> None:
    for known in (record(1), record(4)):
        folder.write_record(known)
    sync(folder, folder.records().values(), url, OPTUNA_STUDY)
    grown = {**STUDY, "methods": [{"method": "rdn", "knobs": {"T": [2, 9]}}, {"method": "new", "knobs": {"m": ["a"]}}]}
    folder.claim(parse_study(grown, "copied"), "data")
    added = record(9, knobs={"T": 9})
    sync(folder, [*folder.records().values(), added], url, OPTUNA_STUDY)
    assert [t.params["rdn.T"] for t in trials(folder, url)] == [1, 4, 9]


def test_two_sweeps_of_one_study_are_two_studies(folder: StudyFolder, url: str, tmp_path: Path) -> None:
    other = StudyFolder(str(tmp_path / "other"))
    other.claim(parse_study(STUDY, "copied"), "data")
    sync(folder, [record(1)], url, OPTUNA_STUDY)
    sync(other, [record(4)], url, OPTUNA_STUDY)
    assert [t.params["rdn.T"] for t in trials(folder, url) + trials(other, url)] == [1, 4]


def test_a_sweep_that_was_ended_is_not_complete(folder: StudyFolder, url: str) -> None:
    sync(folder, [record(1)], url, OPTUNA_STUDY)
    Recorder(url, folder, pytest.fail, OPTUNA_STUDY).stop()
    assert optuna.load_study(study_name=study_name(folder), storage=url).user_attrs["complete"] is False
    assert len(trials(folder, url)) == 1


def test_a_database_that_is_lost_on_the_way_costs_one_warning(
    folder: StudyFolder, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    recorder = Recorder(url, folder, warnings.append, OPTUNA_STUDY)
    recorder.deliver([record(1)])
    recorder._thread.submit(lambda: None).result()

    def lost(self: OptunaStudy, records: Iterable[TrialRecord]) -> int:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(OptunaStudy, "deliver", lost)
        recorder.deliver([record(2)])
        recorder._thread.submit(lambda: None).result()
    assert warnings == ["Optuna's storage does not take results: gone; the sweep goes on, results stay on disk"]
    assert recorder.finish([record(1), record(2)], complete=True)
    assert [t.params["rdn.T"] for t in trials(folder, url)] == [1, 2]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("runs/optuna", "'runs/optuna' is not accepted: give sqlite:///FILE.db"),
        ("redis://h", "is not accepted"),
        ("sqlite://", "names no file"),
    ],
)
def test_an_address_of_no_database_is_refused(address: str, said: str) -> None:
    with pytest.raises(UserError, match="Optuna storage") as error:
        open_storage(address)
    assert said in str(error.value)


def test_a_database_that_refuses_is_one_line_without_its_password(refusing_port: int) -> None:
    with pytest.raises(OutOfReachError) as error:
        open_storage(f"postgresql+psycopg2://ann:hunter2@127.0.0.1:{refusing_port}/optuna")
    message = str(error.value)
    assert (
        f"Optuna storage 'postgresql+psycopg2://ann:***@127.0.0.1:{refusing_port}/optuna' cannot be reached" in message
    )
    assert "correct --optuna-storage" in message
    assert "hunter2" not in message


def test_a_database_that_accepts_and_never_answers_is_given_up(
    folder: StudyFolder, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg2", reason="needs the package psycopg2-binary")
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql+psycopg2://127.0.0.1:{silent.getsockname()[1]}/optuna"
        status, _, said = run("sync", folder.url, "--optuna-storage", url)
    assert status == 1
    assert f"error: Optuna storage '{url}' cannot be reached (no answer in 1 s); start it" in said.splitlines()[-1]
    assert "Traceback" not in said
