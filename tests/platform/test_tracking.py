"""Delivery to MLflow: exactly once whatever interrupts it, bounded when the server is down, no password anywhere."""

from __future__ import annotations

import dataclasses
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vodbench.errors import OutOfReachError, UserError
from vodbench.front.hypervolume import write_history
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content, delivery, whole_runs
from vodbench.tracking.delivery import Delivery
from vodbench.tracking.recorder import Recorder, sync
from vodbench.tracking.server import artifact_location, connect, default_uri
from vodbench.tracking.whole_runs import Tables

STUDY = parse_study({"name": "tracked", "title": "A title", "methods": [{"method": "m"}]}, "tracked")


def record(number: int, ms: float = 10.0, **changes: Any) -> TrialRecord:
    whole = TrialRecord(
        fingerprint=f"trial{number}", study="tracked", method="m", paper="P 2019",
        config={"T": number, "sizes": [1, 2]},
                knobs={"T": number}, seed=0, status="complete", checkpoint="c", data_fingerprint="d", revision="r1",
        started=f"2026-01-01T00:00:{number:02d}+00:00", seconds={"train": 2.5},
        accuracy=Accuracy(protocol="ilsvrc", map=0.1 * number, low=0.0, high=0.9,
                          per_class={"car (red)": 0.5, "cat": None},
                          motion={"slow": 0.7}, deteriorations={"any": 0.4}),
        runtime=Runtime(median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms,
                        stage_ms={"backbone": 3.0}, decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=2,
                        num_frames=9, device="cpu", threads=1, contended=False),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(default_uri(str(folder)))
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> StudyFolder:
    shutil.copy(empty_database, tmp_path)
    made = StudyFolder(str(tmp_path))
    made.claim(STUDY, "data")
    return made


def uri(folder: StudyFolder) -> str:
    return default_uri(folder.url)


def runs(folder: StudyFolder, role: str = "trial") -> list[Any]:
    client = connect(uri(folder))
    experiment = client.get_experiment_by_name("tracked")
    return (
        list(client.search_runs([experiment.experiment_id], f"tags.`vodbench.role` = '{role}'")) if experiment else []
    )


def test_a_trial_is_there_with_readable_names_and_its_files(folder: StudyFolder, tmp_path: Path) -> None:
    detections = tmp_path / "trials" / "trial3" / "detections.parquet"
    detections.parent.mkdir(parents=True)
    detections.write_bytes(b"rows")
    (tmp_path / "front.html").write_text("front")
    known = [record(3, detections="trials/trial3/detections.parquet"), record(4, ms=20.0), record(2, ms=30.0)]
    assert sync(folder, known, uri(folder)) == 3
    by_T = {run.data.params["T"]: run for run in runs(folder)}
    assert {T: run.data.tags["front"] for T, run in by_T.items()} == {"3": "yes", "4": "yes", "2": "no"}
    run = by_T["3"]
    assert run.info.run_name == "m T=3"
    assert run.data.params["sizes"] == "[1, 2]"
    figures = run.data.metrics
    assert figures["map"] == pytest.approx(0.3)
    assert (figures["map_slow"], figures["map_deterioration/any"], figures["ap/car _red_"]) == (0.7, 0.4, 0.5)
    assert (figures["stage_ms/backbone"], figures["seconds_train"]) == (3.0, 2.5)
    assert "ap/cat" not in figures
    assert "gflops" not in figures
    assert run.info.start_time == content.started_ms(known[0])
    client = connect(uri(folder))
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["detections.parquet"]
    (parent,) = runs(folder, "sweep")
    assert {f.path for f in client.list_artifacts(parent.info.run_id)} == {"study.yaml", "front.html"}
    assert (tmp_path / "mlartifacts").is_dir()
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_delivering_again_makes_no_second_run_and_no_second_point(folder: StudyFolder) -> None:
    known = [record(1), record(2)]
    assert sync(folder, known, uri(folder)) == 2
    assert sync(folder, known, uri(folder)) == 0
    changed = [known[0], dataclasses.replace(known[1], reason="seen again")]
    assert sync(folder, changed, uri(folder)) == 1
    assert len(runs(folder)) == 2
    assert len(runs(folder, "sweep")) == 1
    client = connect(uri(folder))
    for run in runs(folder):
        assert len(client.get_metric_history(run.info.run_id, "map")) == 1


def test_a_trial_that_failed_once_and_then_worked_says_so(folder: StudyFolder) -> None:
    failed = record(1, status="failed", reason="out of luck", accuracy=None, runtime=None, checkpoint=None)
    sync(folder, [failed], uri(folder))
    (run,) = runs(folder)
    assert (run.info.status, run.data.tags["reason"], run.data.tags["front"]) == ("FAILED", "out of luck", "no")
    sync(folder, [record(1)], uri(folder))
    (run,) = runs(folder)
    assert (run.info.status, run.data.tags["status"], run.data.tags["front"]) == ("FINISHED", "complete", "yes")
    assert "reason" not in run.data.tags


def test_a_stopped_trial_is_no_failure(folder: StudyFolder) -> None:
    stopped = record(1, status="stopped", reason="hopeless after 25%", accuracy=None, runtime=None)
    sync(folder, [stopped, record(2)], uri(folder))
    by_status = {run.data.tags["status"]: run for run in runs(folder)}
    assert by_status["stopped"].info.status == "KILLED"
    assert (by_status["stopped"].data.tags["reason"], by_status["stopped"].data.tags["front"]) == (
        "hopeless after 25%",
        "no",
    )
    (parent,) = runs(folder, "sweep")
    counts = {name: value for name, value in parent.data.metrics.items() if name.startswith("trials_")}
    assert counts == {"trials_complete": 1, "trials_failed": 0, "trials_stopped": 1}


def test_the_hypervolume_after_each_trial_is_a_step_of_the_sweeps_run_once(folder: StudyFolder) -> None:
    failed = record(9, status="failed", reason="out of luck", accuracy=None, runtime=None)
    known = [record(1), failed, record(2, ms=5.0)]
    for records in (known[:1], known, known):
        write_history(folder.url, records)
        sync(folder, records, uri(folder))
    (parent,) = runs(folder, "sweep")
    logged = connect(uri(folder)).get_metric_history(parent.info.run_id, "hypervolume")
    steps = write_history(folder.url, known)
    assert [(metric.step, metric.value) for metric in logged] == [
        (1, steps[0].hypervolume),
        (2, steps[1].hypervolume),
    ]
    assert steps[0].hypervolume < steps[1].hypervolume


def test_the_front_moves(folder: StudyFolder) -> None:
    sync(folder, [record(1)], uri(folder))
    sync(folder, [record(1), record(2, ms=5.0)], uri(folder))
    assert {run.data.params["T"]: run.data.tags["front"] for run in runs(folder)} == {"1": "no", "2": "yes"}


class Crashed(BaseException):
    """Like a kill: nothing catches it."""


DETECTIONS = "trials/trial2/detections.parquet"


def write_detections(folder: StudyFolder) -> None:
    path = Path(folder.url, DETECTIONS)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"rows")


def dying(original: Callable[..., Any], state: dict[str, int]) -> Callable[..., Any]:
    """``original``, after which the process dies when as many requests as ``left`` were made."""

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        state["left"] -= 1
        if state["left"] == 0:
            raise Crashed
        return answer

    return call


@pytest.fixture(params=["tables", "client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How runs are written: into the database's tables, or through MLflow's client, as to a server."""
    if request.param == "client":
        monkeypatch.setattr(delivery, "tables_of", lambda *_: None)
    return str(request.param)


def test_a_crash_after_any_request_leaves_each_trial_exactly_once(
    folder: StudyFolder, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after its n-th request, for every n; the next delivery completes what is there."""
    from mlflow.tracking import MlflowClient

    writing: list[tuple[Any, str]] = [(Tables, "add"), (Tables, "set_tags")]
    writing += [
        (MlflowClient, name)
        for name in ("create_experiment", "create_run", "log_batch", "log_artifact", "set_terminated")
    ]
    state = {"left": 0, "requests": 0}
    known = [record(1), record(2, detections=DETECTIONS)]
    address = uri(folder)
    crashed = True
    while crashed:
        sweep = StudyFolder(f"{folder.url}/{state['requests']}")
        sweep.claim(STUDY, "data")
        write_detections(sweep)
        state["requests"] += 1
        with monkeypatch.context() as patch:
            for owner, name in writing:
                patch.setattr(owner, name, dying(getattr(owner, name), state))
            state["left"] = state["requests"]
            try:
                Delivery(address, sweep).deliver_all(known)
                crashed = False
            except Crashed:
                pass
        sync(sweep, known, address)
        _assert_exactly_once(address, sweep)
    assert state["requests"] > (10 if way == "client" else 5)


def _assert_exactly_once(address: str, sweep: StudyFolder) -> None:
    client = connect(address)
    experiment = client.get_experiment_by_name("tracked")
    assert experiment is not None
    mine = f"tags.`vodbench.sweep` = '{sweep.identity().id}'"
    found = client.search_runs([experiment.experiment_id], mine)
    assert sorted(run.data.tags.get("vodbench.trial", "sweep") for run in found) == ["sweep", "trial1", "trial2"]
    for run in found:
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "map")) == 1
        if run.data.tags.get("vodbench.trial") == "trial2":
            assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["detections.parquet"]


def test_an_answer_that_is_lost_makes_no_second_run(
    folder: StudyFolder, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has the run, and the process does not know."""
    from mlflow.tracking import MlflowClient

    owner, name = (Tables, "add") if way == "tables" else (MlflowClient, "create_run")
    original: Callable[..., Any] = getattr(owner, name)
    write_detections(folder)
    there = Delivery(uri(folder), folder)

    def lost(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        raise ConnectionError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, lost)
        with pytest.raises(ConnectionError):
            there.deliver([record(1)])
    assert len(runs(folder)) == 1
    there.deliver_all([record(1), record(2, detections=DETECTIONS)])
    there.finish([record(1), record(2)], complete=True)
    _assert_exactly_once(uri(folder), folder)


def _rows(folder: StudyFolder) -> dict[str, list[tuple[Any, ...]]]:
    """All that MLflow's tables hold of runs, with the names of runs in place of their random ids."""
    with closing(sqlite3.connect(f"{folder.url}/mlflow.db")) as database:
        names = dict(database.execute("select run_uuid, name from runs"))

        def named(value: Any) -> Any:
            for run_id, name in names.items():
                value = value.replace(run_id, name) if isinstance(value, str) else value
            return value.replace(folder.url, "FOLDER") if isinstance(value, str) else value

        tables = ("runs", "tags", "params", "metrics", "latest_metrics")
        found = {table: database.execute(f"select * from {table}").fetchall() for table in tables}
    return {table: sorted((tuple(map(named, row)) for row in rows), key=repr) for table, rows in found.items()}


def test_what_is_written_into_tables_is_what_mlflow_writes(
    folder: StudyFolder, tmp_path_factory: pytest.TempPathFactory, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = record(4, status="failed", reason="out of luck", accuracy=None, runtime=None, checkpoint=None)
    odd = record(6, config={"T": 6, "what": "a" * 5500}, revision="")  # MLflow takes it, but has rules of its own
    known = [record(1), record(2, ms=3.0), record(3, ms=30.0), failed, record(5, ms=1e-9), odd]
    added: list[int] = []
    add = Tables.add
    monkeypatch.setattr(Tables, "add", lambda tables, runs: (added.append(len(runs)), add(tables, runs)))
    sync(folder, known, uri(folder))
    assert added == [5], "one of them is left to the client"
    other = StudyFolder(str(tmp_path_factory.mktemp("other")))
    for file in (empty_database, f"{folder.url}/sweep.json", f"{folder.url}/study.yaml"):
        shutil.copy(file, other.url)
    monkeypatch.setattr(delivery, "tables_of", lambda *_: None)
    sync(other, known, uri(other))
    ours, mlflows = _rows(folder), _rows(other)
    assert len(mlflows["runs"]) == 7
    for table, rows in mlflows.items():
        assert ours[table] == rows, table


def test_many_runs_and_many_tags_are_written_in_parts(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "_AT_ONCE", 2)
    known = [record(n, ms=10.0 * n) for n in range(1, 6)]
    assert sync(folder, known, uri(folder)) == 5
    assert sorted(run.data.tags["front"] for run in runs(folder)) == ["yes"] * 5
    assert sync(folder, [*known, record(9, ms=1.0)], uri(folder)) == 1
    assert sorted(run.data.tags["front"] for run in runs(folder)) == ["no"] * 5 + ["yes"]


def test_tables_that_are_not_known_are_left_to_mlflow(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(whole_runs._COLUMNS, "SqlTag", {"run_uuid", "key"})
    monkeypatch.setattr(Tables, "add", None)
    assert sync(folder, [record(1)], uri(folder)) == 1
    assert runs(folder)[0].data.tags["front"] == "yes"


def test_two_sweeps_of_one_study_share_the_experiment_only(
    folder: StudyFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = StudyFolder(str(tmp_path_factory.mktemp("other")))
    other.claim(STUDY, "data")
    sync(folder, [record(1)], uri(folder))
    sync(other, [record(1)], uri(folder))
    assert len(runs(folder)) == 2
    assert len(runs(folder, "sweep")) == 2


def test_a_server_that_goes_down_costs_one_warning_and_nothing_else(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_uri = uri(folder)
    warnings: list[str] = []
    recorder = Recorder(secret_uri, folder, warnings.append)
    recorder.deliver([record(1)])
    recorder._thread.submit(lambda: None).result()

    tried: list[list[str]] = []

    def down(self: Delivery, records: Iterable[TrialRecord]) -> int:
        tried.append([record.fingerprint for record in records])
        raise ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "deliver", down)
        for number in (2, 3, 4):
            recorder.deliver([record(number)])
        recorder._thread.submit(lambda: None).result()
        assert tried == [["trial2"]]  # then it is left alone
        assert not recorder.finish([record(n) for n in (1, 2, 3, 4)], complete=True)
    assert len(tried) == 2  # and asked once more at the end
    assert len(warnings) == 2
    assert "the sweep goes on" in warnings[0]
    assert f"vodbench sync {folder.url}" in warnings[1]
    assert sync(folder, [record(n) for n in (1, 2, 3, 4)], secret_uri) == 3
    assert len(runs(folder)) == 4


def test_what_was_missed_goes_out_at_the_end(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    recorder = Recorder(uri(folder), folder, warnings.append)
    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "deliver", lambda self, records: (_ for _ in ()).throw(ConnectionError("refused")))
        recorder.deliver([record(1)])
        recorder._thread.submit(lambda: None).result()
    assert recorder.finish([record(1), record(2)], complete=False)
    assert len(runs(folder)) == 2
    assert runs(folder, "sweep")[0].info.status == "KILLED"


def test_what_fails_just_before_the_end_does_not_hold_back_the_rest(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(uri(folder), folder, lambda text: None)
    ends, tried, deliver, submit = threading.Event(), list[str](), Delivery.deliver, recorder._thread.submit

    def down_once(delivery: Delivery, records: Sequence[TrialRecord]) -> int:
        tried.extend(record.fingerprint for record in records)
        if len(tried) == 1:
            raise ConnectionError("refused")
        return deliver(delivery, records)

    def submitted(*work: Any) -> Any:
        future = submit(*work)
        ends.set()
        return future

    monkeypatch.setattr(Delivery, "deliver", down_once)
    submit(ends.wait)
    recorder.deliver([record(1)])
    monkeypatch.setattr(recorder._thread, "submit", submitted)
    assert recorder.finish([record(1), record(2)], complete=True)
    assert tried == ["trial1", "trial1", "trial2"]
    assert len(runs(folder)) == 2


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_an_unreachable_server_is_one_line_before_mlflow_tries_it_without_its_password(
    scheme: str, refusing_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would try for minutes."""
    monkeypatch.setattr("vodbench.tracking.server._answering_client", None)
    with pytest.raises(OutOfReachError) as error:
        connect(f"{scheme}://ann:hunter2@127.0.0.1:{refusing_port}/db")
    message = str(error.value)
    assert f"{scheme}://ann:***@127.0.0.1:{refusing_port}/db' cannot be reached" in message
    assert "hunter2" not in message
    assert "\n" not in message


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vodbench.tracking.server.ANSWER_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(OutOfReachError, match="no answer in 1 s"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("address", ["runs/mlruns", "file:///tmp/x", "htp://host:1"])
def test_an_address_of_no_server_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=re.escape("sqlite:///FILE.db")):
        connect(address)


def test_artifacts_of_a_database_file_lie_beside_it() -> None:
    assert artifact_location("sqlite:////a/b/m.db") == "/a/b/mlartifacts"
    assert artifact_location("http://host:5000") is None


def test_names_of_runs() -> None:
    assert content.run_name(record(3, knobs={"T": 3, "r": 20.0}, seed=2)) == "m T=3 r=20 seed=2"
