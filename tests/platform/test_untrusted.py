"""Files from elsewhere that try to run code: one line says what they are, and the code does not run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, refused

from vodbench.checkpoints import FORMAT, SCHEMA
from vodbench.data_source import DataSource
from vodbench.records import TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig
from vodbench_datasets.shards import write_shards


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("untrusted") / "video"
    generate(str(root), GeneratorConfig(snippets=1, val_snippets=1, frames=2, size=48, classes=1, tracks=(1, 1)))
    return root


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """What is there after the planted code has run."""
    return tmp_path / "ran"


def test_the_planted_code_would_run(ran: Path) -> None:
    pickle.loads(pickle.dumps(Malicious(ran)))
    assert ran.exists()


def plain_pickle(bomb: Malicious, file: Path) -> None:
    file.write_bytes(pickle.dumps(bomb))


def as_checkpoint(bomb: Malicious, file: Path) -> None:
    values = {"format": FORMAT, "schema": SCHEMA, "method": "plain", "config": {}, "classes": [], "weights": bomb}
    torch.save(values, file)


def as_legacy_checkpoint(bomb: Malicious, file: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": bomb}, file, _use_new_zipfile_serialization=False)


WRITERS = [plain_pickle, as_checkpoint, as_legacy_checkpoint]


@pytest.mark.parametrize("write", WRITERS)
def test_a_checkpoint_does_not_run_code(
    write: Callable[[Malicious, Path], None], run: Run, ran: Path, tmp_path: Path, video: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(Malicious(ran), folder / "model.pt")
    for words in (
        ("evaluate", "--run", str(folder), "--data", str(video)),
        ("import", "mega", str(folder / "model.pt"), "--out", str(tmp_path / "out")),
        ("import", "mmtracking", str(folder / "model.pt"), "--out", str(tmp_path / "out")),
    ):
        refused(run(*words), "model.pt")
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_weights_to_begin_from_do_not_run_code(
    write: Callable[[Malicious, Path], None], run: Run, ran: Path, tmp_path: Path, video: Path
) -> None:
    write(Malicious(ran), tmp_path / "weights.pt")
    words = ("train", "faster-rcnn", "--preset", "tiny", "--data", str(video), "--out", str(tmp_path / "out"))
    refused(run(*words, "--set", f"weights={tmp_path / 'weights.pt'}"), "weights.pt")
    assert not ran.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [{}]", "!!python/object/new:os.mkdir [[{}]]"])
def test_yaml_does_not_run_code(tag: str, run: Run, ran: Path, tmp_path: Path) -> None:
    bomb = tag.format(ran)
    study = tmp_path / "study.yaml"
    study.write_text(f"name: x\ntitle: {bomb}\nmethods: [{{method: faster-rcnn}}]\n")
    refused(run("sweep", str(study)), "study.yaml")
    refused(run("sweep", "demo", "--set", f"title={bomb}"), "--set")
    for command in ("report", "front", "sync"):
        (tmp_path / "study" / "trials").mkdir(parents=True)
        shutil.copy(study, tmp_path / "study")
        refused(run(command, str(tmp_path / "study")))
        shutil.rmtree(tmp_path / "study")
    assert not ran.exists()


def test_an_index_does_not_lead_out_of_its_folder(run: Run, tmp_path: Path, video: Path) -> None:
    """No archive is unpacked anywhere. What names files is the index of shards, and a trial's record."""
    shards, outside = tmp_path / "shards", tmp_path / "outside.parquet"
    write_shards(DataSource(root=str(video)).open(), str(shards))
    index = json.loads((shards / "index.json").read_text())
    shutil.copy(shards / index["shards"][0]["file"], outside)
    for name in ("../outside.parquet", str(outside)):
        index["shards"][0]["file"] = name
        (shards / "index.json").write_text(json.dumps(index, separators=(",", ":")))
        refused(run("data", "describe", str(shards)), "damaged at 'shards.0.file'")


@pytest.mark.parametrize("detections", ["/etc/passwd", "../../secret", "trials/../../secret"])
def test_a_record_does_not_send_other_files_to_mlflow(detections: str, run: Run, tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path))
    folder.claim(parse_study({"name": "x", "title": "t", "methods": [{"method": "faster-rcnn"}]}, "x"), "data")
    folder.write_record(
        TrialRecord(fingerprint="f", study="x", method="faster-rcnn", paper="", config={}, knobs={}, seed=0,
                    status="complete", detections=detections)
    )  # fmt: skip
    refused(run("sync", str(tmp_path)), f"detections '{detections}' are not inside the study folder")
    assert not (tmp_path / "mlflow.db").exists()
