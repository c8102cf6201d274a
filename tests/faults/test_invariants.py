"""The suite's own judgement: what is planted into a finished study is found, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults_invariants import Finished, Verdict, judge
from faults_study import FEW, Place
from faults_suite import LIMIT_S, Suite

from vodbench.fingerprint import fingerprint
from vodbench.records import TrialRecord
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content
from vodbench.tracking.server import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S)]

Plant = Callable[[Place, TrialRecord], None]


def lose_a_record(place: Place, record: TrialRecord) -> None:
    os.unlink(StudyFolder(place.folder).trial_url(record.fingerprint))


def rewrite_a_record(place: Place, record: TrialRecord) -> None:
    StudyFolder(place.folder).write_record(record)


def detect_again(place: Place, record: TrialRecord) -> None:
    with place.witness.open("a") as file:
        file.write(json.dumps(["detect", fingerprint(record.config), time.time(), 1]) + "\n")


def run_twice_in_mlflow(place: Place, record: TrialRecord) -> None:
    client = connect(place.tracking)
    experiment = client.get_experiment_by_name("faults")
    assert experiment is not None
    tags = {
        content.SWEEP_TAG: StudyFolder(place.folder).identity().id,
        content.TRIAL_TAG: record.fingerprint,
        "vodbench.role": "trial",
    }
    client.create_run(experiment.experiment_id, tags=tags)


def change_an_accuracy(place: Place, record: TrialRecord) -> None:
    assert record.accuracy is not None
    file = StudyFolder(place.folder).trial_url(record.fingerprint)
    Path(file).write_text(replace(record, accuracy=replace(record.accuracy, low=0.0)).to_json())


@pytest.mark.parametrize(
    ("plant", "lost", "repeated", "wrong"),
    [
        (None, 0, 0, 0),
        (lose_a_record, 1, 1, 1),  # it was there, it is not there, and the front is without it
        (rewrite_a_record, 0, 1, 0),
        (detect_again, 0, 1, 0),
        (run_twice_in_mlflow, 0, 1, 0),
        (change_an_accuracy, 0, 1, 2),  # the file was written; neither the other study nor MLflow says so
    ],
)
def test_what_is_planted_is_found(
    suite: Suite, tmp_path: Path, plant: Plant | None, lost: int, repeated: int, wrong: int
) -> None:
    undisturbed = suite.undisturbed(FEW)
    home = tmp_path / "home"
    shutil.copytree(undisturbed.home, home)  # its files keep their times
    place = replace(undisturbed, home=home, folder=str(home / "out"), tracking=f"sqlite:///{home}/mlflow.db")
    finished = Finished(place)
    finished.look()
    best = max(StudyFolder(place.folder).records().values(), key=lambda r: r.accuracy.map if r.accuracy else 0)
    if plant is not None:
        plant(place, best)
    finished.look()
    verdict = judge(place, finished, undisturbed, num_trials=6)
    assert counts(verdict) == (lost, repeated, wrong), verdict


def counts(verdict: Verdict) -> tuple[int, int, int]:
    return len(verdict.lost), len(verdict.repeated), len(verdict.wrong)
