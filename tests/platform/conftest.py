"""Fixtures of the platform's tests."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from vodbench import cli, registry
from vodbench.cluster import stop_ray
from vodbench.data_source import DataSource
from vodbench.detections import DetectionBuilder, DetectionSet, write_detections
from vodbench.evaluation import evaluate, truth_set
from vodbench.fingerprint import fingerprint
from vodbench.records import Runtime, TrialRecord
from vodbench.spec import Dataset, Detections
from vodbench.studies import Study, load_study
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The plug-in ``plugin/vodbench_plain.py``: detects and streams without training."""
    with _installed("vodbench_plain", tmp_path_factory.mktemp("site")) as module:
        yield module


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The plug-in ``plugin/vodbench_learner.py``: trains in milliseconds, in two stages."""
    with _installed("vodbench_learner", tmp_path_factory.mktemp("site")) as module:
        yield module


@contextmanager
def _installed(name: str, site: Path) -> Iterator[ModuleType]:
    """A module of ``plugin/`` as an installed plug-in, for this process and those that it starts."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[vodbench.methods]\n{name} = {name}:METHODS\n[vodbench.datasets]\n{name} = {name}:DATASETS\n"
    )
    folders = [str(site), str(Path(__file__).parent / "plugin")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*folders, *sys.path])
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
        registry.table.cache_clear()
        yield importlib.import_module(name)
    registry.table.cache_clear()


class Studies:
    """Makes study folders whose detections are the annotations, less what a trial is said to have lost."""

    def __init__(self, video: str) -> None:
        self.video = video
        self.dataset = DataSource(root=video).open()
        self.truth = truth_set(self.dataset, "val")

    def make(self, out: Path, trials: Sequence[dict[str, Any]], **study: Any) -> Path:
        """A folder with these trials: ``method``, ``config``, ``knobs`` (names), ``seed``, ``ms`` (mean runtime),
        ``lost`` (share of frames without detections), ``contended``, ``device``."""
        methods = [{"method": method} for method in dict.fromkeys(t["method"] for t in trials)]
        plain = {"name": "s", "title": "A study", "data": {"root": self.video}, "preset": "tiny", "methods": methods}
        out.mkdir(parents=True)
        (out / "study.yaml").write_text(yaml.safe_dump({**plain, **study}))
        for trial in trials:
            self._write(out, trial, study.get("accuracy", {}).get("protocol", "ilsvrc"))
        return out

    def detections(self, method: str, seed: int, lost: float) -> DetectionSet:
        return lossy(self.dataset, lost, seed + sum(map(ord, method)))

    def _write(self, out: Path, trial: dict[str, Any], protocol: str) -> None:
        method, config, seed = trial["method"], trial.get("config", {}), trial.get("seed", 0)
        name = fingerprint(method, config, seed, self.dataset.fingerprint, protocol)
        found = self.detections(method, seed, trial.get("lost", 0.1))
        write_detections(str(out / "trials" / name / "detections.parquet"), found)
        ms = trial.get("ms", 10.0)
        record = TrialRecord(
            fingerprint=name, study="s", method=method, paper="p", config=config,
            knobs={k: config[k] for k in trial.get("knobs", config)}, seed=seed, status="complete",
            accuracy=evaluate(self.truth, found, protocol, bootstrap=50),
            runtime=Runtime(
                median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms - 0.5, high_ms=ms + 0.5, fps=1000 / ms,
                stage_ms={"backbone": ms}, decode_ms=0.1, gflops=0.1, peak_memory_mb=1.0, latency_frames=0,
                num_frames=10, device=trial.get("device", "cpu"), threads=1, contended=trial.get("contended", False),
            ),
            checkpoint="c", detections=f"trials/{name}/detections.parquet",
            data_fingerprint=self.dataset.fingerprint,
        )  # fmt: skip
        (out / "trials" / name / "trial.json").write_text(record.to_json())


def lossy(dataset: Dataset, lost: float, seed: int) -> DetectionSet:
    """The annotations of the validation split as detections, with frames left empty at random."""
    rng, builder = np.random.default_rng(seed), DetectionBuilder()
    for info in dataset.snippets("val"):
        for frame in dataset.read("val", info.id, with_images=False):
            scores = rng.uniform(0.5, 1.0, len(frame.truth.labels)).astype(np.float32)
            whole = Detections(frame.truth.boxes, scores, frame.truth.labels)
            builder.add(info.id, frame.index, Detections.empty() if rng.random() < lost else whole)
    return builder.build()


LITTLE = """
name: seen
title: Two methods, three weights, five trials
preset: tiny
settings: {iterations: 4, basic_iterations: 3, advanced_iterations: 2}
methods:
  - method: rdn-basic
    settings: {T: 1}
    knobs: {N_b: [1, 2]}
  - method: rdn
    knobs: {T: [1, 2, 3]}
accuracy: {bootstrap: 20}
runtime: {snippets: 1}
workers: {training: 1, evaluation: 1}
scales:
  small: {name: seen-small, data: {generate: {snippets: 6, val_snippets: 3, frames: 6}}}
comparisons:
  - {name: rdn - basic, a: {method: rdn, knobs: {T: 1}}, b: {method: rdn-basic, knobs: {N_b: 1}}}
  - {name: rdn, a: {method: rdn}, along: T}
"""


@dataclass(frozen=True)
class LittleSweep:
    """A real sweep as a user runs it, with ``words``, in folder ``out``; ``study`` has the data that it generated."""

    words: list[str]
    out: Path
    study: Study
    printed: str

    @property
    def figures(self) -> dict[str, Any]:
        """Of ``--json``."""
        return dict(json.loads(self.printed.splitlines()[-1]))


@pytest.fixture(scope="session")
def little_sweep(tmp_path_factory: pytest.TempPathFactory) -> LittleSweep:
    """Generated video, trainings, trials and their comparison: a minute, so all who want a real sweep look at one."""
    folder = tmp_path_factory.mktemp("little")
    file, out = folder / "study.yaml", folder / "out"
    file.write_text(LITTLE)
    words = ["study", "gains", str(file), "--scale", "small", "--out", str(out), "--json"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr("sys.argv", ["vodbench", *words])
        with pytest.raises(SystemExit) as done:
            cli.main()
    stop_ray()  # a command leaves that to the end of its process
    assert done.value.code == 0
    study = load_study(str(file), {"data.root": str(out / "data" / "shards")}, "small")
    return LittleSweep(words, out, study, printed.getvalue())


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """Study folders on small generated video, made as a test asks for them."""
    video = str(tmp_path_factory.mktemp("studies") / "video")
    generate(video, GeneratorConfig(snippets=1, val_snippets=10, frames=8, size=64, classes=2, tracks=(1, 2), seed=3))
    return Studies(video)
