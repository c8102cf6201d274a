"""A tracking server with authentication that is lost on the way, or does not let one in: one line, nothing lost."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from vodbench_machines import S3, Mlflow

from vodbench.errors import OutOfReachError, UserError
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking.recorder import Recorder, sync
from vodbench.tracking.server import connect

pytestmark = pytest.mark.slow


def record(number: int) -> TrialRecord:
    ms, accuracy = 5.0 * number, 0.1 * number
    return TrialRecord(
        fingerprint=f"trial{number}", study="outage", method="m", paper="P 2019", config={"T": number},
        knobs={"T": number}, seed=0, status="complete", started=f"2026-01-01T00:00:{number:02d}+00:00",
        detections=f"trials/trial{number}/detections.parquet",
        accuracy=Accuracy(protocol="ilsvrc", map=accuracy, low=accuracy - 0.1, high=accuracy + 0.1),
        runtime=Runtime(median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms,
                        stage_ms={}, decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=2, num_frames=9,
                        device="cpu", threads=1, contended=False),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, s3: S3) -> StudyFolder:
    """Four trials on disk."""
    made = StudyFolder(str(tmp_path / "outage"))
    made.claim(parse_study({"name": "outage", "title": "t", "methods": [{"method": "m"}]}, "outage"), "data")
    for number in range(1, 5):
        made.write_record(record(number))
        Path(made.trial_url(f"trial{number}", "detections.parquet")).write_bytes(b"rows of %d" % number)
    return made


def runs(mlflow: Mlflow) -> list[Any]:
    client = connect(mlflow.url_with_password)
    experiment = client.get_experiment_by_name("outage")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`vodbench.role` = 'trial'"))


def create_user(mlflow: Mlflow, name: str, password: str) -> None:
    login = base64.b64encode(f"{mlflow.user}:{mlflow.password}".encode()).decode()
    request = urllib.request.Request(
        f"{mlflow.url}/api/2.0/mlflow/users/create",
        data=json.dumps({"username": name, "password": password}).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def test_a_server_killed_on_the_way_costs_one_line_and_sync_delivers_the_rest(
    folder: StudyFolder, mlflow: Mlflow
) -> None:
    warnings: list[str] = []
    recorder = Recorder(mlflow.url_with_password, folder, warnings.append)
    known = list(folder.records().values())
    recorder.deliver([known[0]])
    recorder._thread.submit(lambda: None).result()
    mlflow.kill()
    for lost in known[1:]:
        recorder.deliver([lost])
    assert not recorder.finish(known, complete=True)
    first, last = warnings
    assert first.startswith("MLflow does not take results: ")
    assert "Connection refused" in first
    assert "the sweep goes on" in first
    assert last.endswith(f"vodbench sync {folder.url} --tracking {mlflow.url.replace('//', '//admin:***@')}")
    assert all("\n" not in said and mlflow.password not in said for said in warnings)
    with pytest.raises(OutOfReachError, match="Connection refused"):
        sync(folder, known, mlflow.url_with_password)

    mlflow.start()
    mlflow.wait()
    assert sync(folder, known, mlflow.url_with_password) == 3
    assert sync(folder, known, mlflow.url_with_password) == 0
    found = runs(mlflow)
    assert sorted(run.data.params["T"] for run in found) == ["1", "2", "3", "4"]
    client = connect(mlflow.url_with_password)
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.tags["front"] == "yes"
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["detections.parquet"]


def test_the_wrong_login_is_one_line_that_says_so(
    folder: StudyFolder, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    for address in (mlflow.url, mlflow.url_with_password.replace(mlflow.password, "planted-wrong-pw")):
        with pytest.raises(UserError, match=r"refuses the login \(401\); give the right MLFLOW_TRACKING_USER") as error:
            sync(folder, [], address)
        assert "planted-wrong-pw" not in str(error.value)
        assert "\n" not in str(error.value)


def test_the_login_may_come_from_the_environment(
    folder: StudyFolder, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", mlflow.user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", mlflow.password)
    sync(folder, folder.records().values(), mlflow.url)


def test_a_user_who_may_only_read_is_told_what_to_ask_for(folder: StudyFolder, mlflow: Mlflow) -> None:
    sync(folder, [], mlflow.url_with_password)
    create_user(mlflow, "reader", "planted-reader-pw")
    with pytest.raises(UserError, match=r"does not allow this user to write there \(403\); ask .* EDIT") as error:
        sync(folder, folder.records().values(), mlflow.url.replace("//", "//reader:planted-reader-pw@"))
    assert "planted-reader-pw" not in str(error.value)
