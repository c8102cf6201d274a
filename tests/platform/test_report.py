"""The report of a small study folder: what it shows, and what it says when the data is gone."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from vodbench.data_source import DataSource
from vodbench.detections import DetectionBuilder, write_detections
from vodbench.errors import UserError
from vodbench.evaluation import compare, evaluate, truth_set
from vodbench.images import decode
from vodbench.records import Runtime, TrialRecord
from vodbench.report.frames import compare_frames, judge
from vodbench.report.page import render_report
from vodbench.spec import Dataset, Detections, Truth
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig


def runtime(median_ms: float, latency: int) -> Runtime:
    return Runtime(
        median_ms=median_ms, p95_ms=median_ms, p99_ms=median_ms, mean_ms=median_ms, low_ms=median_ms, high_ms=median_ms,
        fps=1000 / median_ms, stage_ms={"backbone": median_ms}, decode_ms=0.1, gflops=0.1, peak_memory_mb=1.0,
        latency_frames=latency, num_frames=10, device="cpu", threads=1, contended=False,
    )  # fmt: skip


def detections_of(dataset: Dataset, *, lost: int) -> DetectionBuilder:
    """Perfect detections, but nothing in every frame whose number is a multiple of ``lost``."""
    builder = DetectionBuilder()
    for info in dataset.snippets("val"):
        for frame in dataset.read("val", info.id):
            truth = frame.truth
            scores = np.full(len(truth.labels), 0.9, np.float32)
            found = Detections(truth.boxes, scores, truth.labels) if frame.index % lost else Detections.empty()
            builder.add(info.id, frame.index, found)
    return builder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    config = GeneratorConfig(snippets=1, val_snippets=3, frames=6, size=64, classes=2, tracks=(1, 1), seed=3)
    generate(str(root / "video"), config)
    out = root / "sweep"
    dataset = DataSource(root=str(root / "video")).open()
    truth = truth_set(dataset, "val")
    for number, (method, lost) in enumerate((("faster-rcnn", 2), ("rdn", 4))):
        found = detections_of(dataset, lost=lost).build()
        write_detections(str(out / "trials" / f"t{number}" / "detections.parquet"), found)
        record = TrialRecord(
            fingerprint=f"t{number}", study="small", method=method, paper="<i>p</i>", config={"T": 2}, knobs={"T": 2},
            seed=0, status="complete", accuracy=evaluate(truth, found, bootstrap=50),
            runtime=runtime(5.0 + number, 2 * number), detections=f"trials/t{number}/detections.parquet",
        )  # fmt: skip
        (out / "trials" / f"t{number}" / "trial.json").write_text(record.to_json())
    plain = {"name": "small", "title": "A <small> study", "data": {"root": str(root / "video")}, "preset": "tiny",
             "methods": [{"method": "faster-rcnn"}, {"method": "rdn"}]}  # fmt: skip
    (out / "study.yaml").write_text(yaml.safe_dump(plain))
    return out


def test_the_page_is_self_contained_and_says_what_was_measured(study: Path) -> None:
    page = render_report(str(study))
    assert not re.search(r"<script[^>]+src=", page)
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|href)="https?://', markup)
    assert "A &lt;small&gt; study" in page
    assert "<i>p</i>" not in page
    dataset = DataSource(root=str(study.parent / "video")).open()
    truth = truth_set(dataset, "val")
    rdn, single = (detections_of(dataset, lost=lost).build() for lost in (4, 2))
    difference = compare(truth, rdn, single, bootstrap=1000)
    assert f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" in page
    assert f"{json.loads((study / 'trials' / 't1' / 'trial.json').read_text())['accuracy']['map']:.3f}" in page


@pytest.mark.parametrize("first", ["faster-rcnn", "rdn"])
def test_the_method_a_study_names_first_is_the_baseline(study: Path, tmp_path: Path, first: str) -> None:
    shutil.copytree(study, tmp_path / "sweep")
    plain = yaml.safe_load((study / "study.yaml").read_text())
    plain["methods"].sort(key=lambda entry: entry["method"] != first)
    (tmp_path / "sweep" / "study.yaml").write_text(yaml.safe_dump(plain))
    assert f"Against {first}" in render_report(str(tmp_path / "sweep"))


def test_frames_where_the_methods_differ_are_drawn(study: Path) -> None:
    dataset = DataSource(root=str(study.parent / "video")).open()
    single, rdn = (detections_of(dataset, lost=lost).build() for lost in (2, 4))
    gains = compare_frames(dataset, "val", single, rdn)
    assert gains
    assert len({comparison.snippet for comparison in gains}) == len(gains)
    assert all(comparison.frame == 2 for comparison in gains), "only frame 2 is lost by one of them alone"
    assert all(c.second_correct > c.first_correct == 0 and c.second_wrong == 0 for c in gains)
    image = decode(base64.b64decode(gains[0].second.partition(",")[2]), "report")
    assert image.shape[1] >= 320
    losses = compare_frames(dataset, "val", rdn, single)
    assert all(comparison.second_correct < comparison.first_correct for comparison in losses)
    assert len(losses) == min(len(gains), 2)


def test_without_the_data_the_page_says_what_is_missing(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(study, out)
    plain = yaml.safe_load((out / "study.yaml").read_text())
    plain["data"]["root"] = str(tmp_path / "gone")
    (out / "study.yaml").write_text(yaml.safe_dump(plain))
    page = render_report(str(out))
    assert "Left out, with the frames below" in page
    assert "does not exist" in page


def test_judging_a_frame_counts_duplicates_and_wrong_classes_as_wrong() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
    flags = np.zeros(2, bool)
    truth = Truth(boxes, np.array([1, 2]), np.array([0, 1]), flags, flags)
    found = Detections(boxes[[0, 0, 1]], np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 1, 1]))
    assert judge(truth, found) == (1, 2)
    assert judge(truth, Detections.empty()) == (0, 0)


def test_a_folder_without_a_complete_trial_is_a_user_error(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(study, out)
    for file in out.glob("trials/*/trial.json"):
        values = json.loads(file.read_text())
        file.write_text(json.dumps({**values, "status": "failed", "accuracy": None, "runtime": None, "reason": "x"}))
    with pytest.raises(UserError, match="no complete trial"):
        render_report(str(out))
