"""What must hold of a study that was disturbed: nothing lost, nothing done twice, everything as if undisturbed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from faults_study import Place

from vodbench.checkpoints import checkpoint_url, load_checkpoint
from vodbench.detections import DetectionSet, read_detections
from vodbench.fingerprint import fingerprint
from vodbench.front.pareto import pareto_front
from vodbench.knobs import MethodConfig
from vodbench.records import TrialRecord
from vodbench.storage import filesystem, join
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content
from vodbench.tracking.server import connect


@dataclass
class Verdict:
    """What is wrong, a line each."""

    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.repeated or self.wrong)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.lost + other.lost, self.repeated + other.repeated, self.wrong + other.wrong)


class Finished:
    """The files that say that something is done. Once there, each stays as it is, to the end.

    The record of a trial that failed is none of them: it may be tried again.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._seen: dict[str, tuple[Any, ...]] = {}
        self.rewritten: list[str] = []

    def look(self) -> None:
        now = self._files()
        for path, stamp in self._seen.items():
            if now.get(path) != stamp:
                self.rewritten.append(f"{path} was {'rewritten' if path in now else 'removed'}")
        self._seen |= {
            path: stamp
            for path, stamp in now.items()
            if path in self._seen or path.endswith("model.pt") or self._is_complete(path)
        }

    def _is_complete(self, record: str) -> bool:
        fs, _ = filesystem(self._place.folder)
        return b'"status": "complete"' in fs.cat([record], on_error="omit").get(record, b"")

    def _files(self) -> dict[str, tuple[Any, ...]]:
        fs, root = filesystem(self._place.folder)
        fs.invalidate_cache()
        found = {}
        for pattern in ("trials/*/trial.json", "checkpoints/*/model.pt"):
            for path, info in fs.glob(join(root, pattern), detail=True).items():
                found[path] = (info["size"], *_written(info))
        return found


def _written(info: Mapping[str, Any]) -> tuple[Any, ...]:
    """What changes whenever a file is written again: time and inode on a disk, time and content in a bucket."""
    if "LastModified" in info:
        return info["LastModified"].timestamp(), info["ETag"]
    return info["mtime"], info["ino"]


def judge(place: Place, finished: Finished, undisturbed: Place, num_trials: int) -> Verdict:
    """Hold the finished study against the other one, which nobody disturbed, and against MLflow."""
    found, wanted = (StudyFolder(p.folder).records() for p in (place, undisturbed))
    assert len(wanted) == num_trials, f"the undisturbed study has {len(wanted)} trials, not {num_trials}"
    verdict = Verdict(repeated=list(finished.rewritten))
    for name, record in wanted.items():
        mine = found.get(name)
        if mine is None or mine.status != "complete":
            verdict.lost.append(f"{content.run_name(record)}: {mine.reason if mine else 'no record'}")
        else:
            verdict.wrong += [f"{content.run_name(record)}: {what}" for what in _differences(place, undisturbed, mine)]
    verdict.wrong += [f"{name} is no trial of the study" for name in found.keys() - wanted.keys()]
    if _front(found) != _front(wanted):
        verdict.wrong.append(f"the front is {sorted(_front(found))}, not {sorted(_front(wanted))}")
    return verdict + _done_again(place, found) + _tracked(place, found)


def _differences(place: Place, undisturbed: Place, mine: TrialRecord) -> list[str]:
    """Everything but the runtime is the same to the last bit."""
    wanted = StudyFolder(undisturbed.folder).record(mine.fingerprint)
    assert wanted is not None
    assert mine.checkpoint is not None
    plain = [dataclasses.replace(r, runtime=None, started="", seconds={}, revision="") for r in (mine, wanted)]
    problems = [] if plain[0] == plain[1] else ["its record differs"]
    found, others = (_detections(p, mine) for p in (place, undisturbed))
    names = ("snippet_ids", "snippet", "frame", "offsets", "boxes", "scores", "labels")
    if not all(np.array_equal(getattr(found, name), getattr(others, name)) for name in names):
        problems.append("its detections differ")
    weights = [load_checkpoint(checkpoint_url(p.folder, mine.checkpoint)).weights for p in (place, undisturbed)]
    if not all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items()):
        problems.append("its weights differ")
    return problems


def _detections(place: Place, record: TrialRecord) -> DetectionSet:
    assert record.detections is not None
    return read_detections(join(place.folder, record.detections))


def _front(records: Mapping[str, TrialRecord]) -> set[str]:
    """Of mAP against GFLOPs, the cost that no load changes; against runtime, no two runs have the same front."""
    costed = [
        dataclasses.replace(record, runtime=dataclasses.replace(record.runtime, mean_ms=record.runtime.gflops))
        for record in records.values()
        if record.runtime is not None and record.runtime.gflops is not None
    ]
    return {record.fingerprint for record, on in zip(costed, pareto_front(costed), strict=True) if on}


def _done_again(place: Place, records: Mapping[str, TrialRecord]) -> Verdict:
    """Lines of the witness that are younger than the result of what they began."""
    fs, root = filesystem(place.folder)
    since: dict[tuple[str, str], float] = {}
    for record in records.values():
        if record.status != "complete":
            continue
        trial, weights = f"trials/{record.fingerprint}/trial.json", f"checkpoints/{record.checkpoint}/model.pt"
        since["detect", fingerprint(record.config)] = _time(fs, join(root, trial))
        since["train", fingerprint(_training(place, record))] = _time(fs, join(root, weights))
    again = {
        (what, key)
        for what, key, when, _ in map(json.loads, place.witness.read_text().splitlines())
        if when > since.get((what, key), float("inf"))
    }
    return Verdict(repeated=[f"{what} {key} ran after it was finished" for what, key in sorted(again)])


def _training(place: Place, record: TrialRecord) -> Mapping[str, Any]:
    assert record.checkpoint is not None
    config: MethodConfig = load_checkpoint(checkpoint_url(place.folder, record.checkpoint)).config
    return config.training_settings()


def _time(fs: Any, path: str) -> float:
    """When a file was written. A bucket tells whole seconds: a process that does something again needs longer."""
    info = fs.info(path)
    return float(info["LastModified"].timestamp() + 1 if "LastModified" in info else info["mtime"])


def _tracked(place: Place, records: Mapping[str, TrialRecord]) -> Verdict:
    """Each trial has one run in MLflow, which has ended and says what its record says."""
    client = connect(place.tracking)
    experiment = client.get_experiment_by_name("faults")
    if experiment is None:
        return Verdict(lost=["MLflow has no experiment"])
    sweep = StudyFolder(place.folder).identity().id
    mine = f"tags.`{content.SWEEP_TAG}` = '{sweep}' and tags.`vodbench.role` = "
    runs: dict[str, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id], mine + "'trial'"):
        runs.setdefault(run.data.tags[content.TRIAL_TAG], []).append(run)
    verdict = Verdict()
    for name, record in records.items():
        found = runs.get(name, [])
        if len(found) > 1:
            verdict.repeated.append(f"{content.run_name(record)}: {len(found)} runs in MLflow")
        for run in found if len(found) == 1 else []:
            if run.data.metrics != content.metrics(record) or run.info.status != "FINISHED":
                verdict.wrong.append(f"{content.run_name(record)}: MLflow says otherwise ({run.info.status})")
        if not found:
            verdict.lost.append(f"{content.run_name(record)}: no run in MLflow")
    parents = client.search_runs([experiment.experiment_id], mine + "'sweep'")
    if len(parents) != 1 or parents[0].info.status != "FINISHED":
        verdict.wrong.append(f"MLflow has {len(parents)} runs of the sweep: {[p.info.status for p in parents]}")
    return verdict
