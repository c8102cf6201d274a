"""A sweep whose data, weights, detections, records and MLflow artifacts are in a bucket, its runs in PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from vodbench_machines import S3, Mlflow, Swept

from vodbench.redaction import redact
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking.content import metrics
from vodbench.tracking.optuna_study import study_name
from vodbench.tracking.server import connect

pytestmark = pytest.mark.slow

TRIALS = {"faster-rcnn", "rdn T=1", "rdn T=3"}


def test_everything_is_in_the_bucket_and_nothing_on_disk(swept: Swept, s3: S3) -> None:
    assert swept.figures["trials_complete"] == len(TRIALS)
    assert swept.figures["trainings"] == 2
    assert swept.figures["tracked"]
    there = {path.removeprefix("bench/sweep/") for path in s3.fs.find("bench/sweep")}
    records = StudyFolder(swept.url).records()
    assert len(records) == len(TRIALS)
    for name, record in records.items():
        assert {f"trials/{name}/trial.json", f"trials/{name}/detections.parquet"} <= there
        assert f"checkpoints/{record.checkpoint}/model.pt" in there
    assert {"study.yaml", "sweep.json", "front.html", "front.png", "front.json", "report.html"} <= there
    assert "data/shards/index.json" in there
    assert any(path.startswith("features/") for path in there)
    passing = ("partial", "progress", "failure", "claim", ".tune", "parts", "tmp", "error.txt")
    assert [path for path in there if any(word in path for word in passing)] == []
    assert list(swept.folder.iterdir()) == []


def test_the_same_command_finds_it_all_done(swept: Swept, mlflow: Mlflow, run: Any) -> None:
    before = StudyFolder(swept.url).records()
    done = run("sweep", str(swept.folder.parent / "bucket.yaml"), "--out", swept.url, "--json",
               "--tracking", mlflow.url_with_password)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["trials_new"] == 0
    assert StudyFolder(swept.url).records() == before


def test_mlflow_has_params_metrics_and_artifacts(swept: Swept, mlflow: Mlflow, s3: S3, tmp_path: Any) -> None:
    client = connect(mlflow.url_with_password)
    experiment = client.get_experiment_by_name("bucket")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert runs.keys() == {"sweep bucket", *TRIALS}
    assert len(found) == len(runs)
    for record in StudyFolder(swept.url).records().values():
        (run,) = (run for run in found if run.data.tags.get("vodbench.trial") == record.fingerprint)
        assert run.info.status == "FINISHED"
        assert run.data.metrics == pytest.approx(metrics(record))
        assert {name: run.data.params[name] for name in record.knobs} == {
            name: str(value) for name, value in record.knobs.items()
        }
        local = client.download_artifacts(run.info.run_id, "detections.parquet", str(tmp_path))
        with open(local, "rb") as file:
            assert file.read() == s3.fs.cat_file(f"bench/sweep/{record.detections}")
    artifacts = {path.rpartition("/")[2] for path in s3.fs.find("bench/mlflow")}
    assert {"detections.parquet", "study.yaml", "front.html", "front.png", "front.json"} <= artifacts


def test_optunas_storage_has_every_trial(swept: Swept) -> None:
    study = optuna.load_study(study_name=study_name(StudyFolder(swept.url)), storage=swept.optuna_storage)
    trials = study.get_trials()
    assert {trial.user_attrs["name"] for trial in trials} == TRIALS
    records = StudyFolder(swept.url).records()
    for trial in trials:
        record = records[trial.user_attrs["trial"]]
        assert record.accuracy is not None
        assert record.runtime is not None
        assert trial.values == [pytest.approx(record.accuracy.map), pytest.approx(record.runtime.mean_ms)]
    assert study.user_attrs["complete"]


def test_what_was_said_names_the_servers_without_their_passwords(swept: Swept, mlflow: Mlflow) -> None:
    said = swept.printed
    assert f'tracking="{redact(mlflow.url_with_password)}"' in said
    assert f'optuna_storage="{redact(swept.optuna_storage)}"' in said
    assert "View run" not in said
