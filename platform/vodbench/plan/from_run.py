"""Rates out of a sweep that was run: its trials' records, its trainings' and detections' own times, its noted times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from vodbench.checkpoints import FILE_NAME
from vodbench.detections import read_detections
from vodbench.errors import UserError
from vodbench.plan.costs import FrameRate, Rates, StageRate
from vodbench.plan.fits import fitted_measurements, fitted_passes, fitted_training
from vodbench.plan.stages import encoder_stages
from vodbench.records import TrialRecord
from vodbench.registry import method_spec
from vodbench.storage import exists, filesystem, join, read_text
from vodbench.studies import Study
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.times import DETECT, SWEEP, TRAIN, noted_times
from vodbench.training.fingerprints import PlannedStage, plan_stages


@dataclass(frozen=True, kw_only=True)
class SweepSeen:
    """A study folder as a plan looks at it: complete trials, and the stages that they were trained in."""

    url: str
    study: Study
    records: tuple[TrialRecord, ...]
    stages: Mapping[str, PlannedStage]

    def size(self, *parts: str) -> int:
        fs, path = filesystem(join(self.url, *parts))
        return int(fs.size(path) or 0) if fs.exists(path) else 0


def seen(url: str) -> SweepSeen:
    """``UserError`` for a folder that is no study's, or without a complete trial."""
    folder = StudyFolder(url)
    study = folder.study()
    records = tuple(r for r in folder.records().values() if r.status == "complete" and r.accuracy and r.runtime)
    if not records:
        raise UserError(f"sweep '{url}' has no complete trial to take times from; let it run, or give another --from")
    stages = {stage.fingerprint: stage for record in records for stage in _chain(record, study)}
    return SweepSeen(url=url, study=study, records=records, stages=stages)


def rates_from(url: str) -> Rates:
    """What the sweep in that folder took, part by part. ``UserError`` where it did not write that down."""
    sweep = seen(url)
    trained = {name: values for name in sweep.stages if (values := _training(sweep, name))}
    frames = {record.fingerprint: _frame(sweep, record) for record in sweep.records}
    passes = list(noted_times(url, DETECT))
    sweeps = list(noted_times(url, SWEEP))
    if any(noted["at_once"] != 1 for noted in sweeps) or sweep.study.search.sampler != "grid":
        raise UserError(
            f"sweep '{url}' ran several trials at once, or a search, whose trials share work over time: what a part "
            "takes cannot be told from it; give a grid with workers.concurrent_trials = 1"
        )
    if not passes or not sweeps:
        raise UserError(
            f"sweep '{url}' was run by a version that did not note what its passes take (times/); run a sweep again, "
            "into another --out"
        )
    starts = [_start(values, trained) for values in noted_times(url, TRAIN)]
    pass_start, part, first_pass = fitted_passes(passes, frames)
    measure_start, measure_passes = fitted_measurements(sweep.records)
    start, trial = _driver(sweep, sweeps)
    runtimes = [record.runtime for record in sweep.records if record.runtime]
    return Rates(
        device=", ".join(sorted({runtime.device for runtime in runtimes})),
        source=f"sweep '{url}' of {sweep.study.name}{busy(url)}",
        stages=tuple(_stage_rate(sweep, name, values) for name, values in trained.items()),
        frames=tuple(frames.values()),
        start_s=start,
        train_start_s=fmean(starts) if starts else 0.0,
        pass_start_s=pass_start,
        first_pass_s=first_pass,
        part_s=part,
        score_s=median(r.seconds["evaluate"] / max(1, r.accuracy.num_frames) for r in sweep.records if r.accuracy),
        measure_start_s=measure_start,
        measure_passes=measure_passes,
        trial_s=trial,
        detection_bytes=fmean(_detection_bytes(sweep)),
    )


def busy(url: str) -> str:
    """How busy the machine was while a sweep ran, in words to append; empty where nothing counted it."""
    shares = [float(noted["pressure"]) for noted in noted_times(url, SWEEP) if noted["pressure"] is not None]
    return f", where tasks waited for a CPU {fmean(shares):.0%} of the time" if shares else ""


def _chain(record: TrialRecord, study: Study) -> tuple[PlannedStage, ...]:
    config = method_spec(record.method).config.from_mapping(record.config)
    return plan_stages(record.method, config, record.data_fingerprint, record.seed, study.data.train)


# ---- trainings ----------------------------------------------------------------------------------------------


def _training(sweep: SweepSeen, stage: str) -> Mapping[str, float] | None:
    """Seconds of a stage that was trained in this folder, those of them for its start and for a clip, and workers."""
    url = join(sweep.url, "checkpoints", stage, "training.json")
    if not exists(url):
        return None
    try:
        values = json.loads(read_text(url))
        seconds, schedule = float(values["seconds"]), sweep.stages[stage].stage.schedule
        start, clip = fitted_training(seconds, values["history"], schedule.batch_size)
        return {"seconds": seconds, "start": start, "clip": clip, "workers": float(values["workers"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{url}' is damaged ({error!r}); give another --from") from error


def _stage_rate(sweep: SweepSeen, name: str, values: Mapping[str, float]) -> StageRate:
    stage = sweep.stages[name].stage
    return StageRate(
        method=stage.method,
        stage=stage.name,
        settings=stage.config.training_settings(),
        clip_s=max(values["clip"] * values["workers"], 1e-9),
        start_s=values["start"],
        model_bytes=sweep.size("checkpoints", name, FILE_NAME),
    )


def _start(noted: Mapping[str, Any], trained: Mapping[str, Mapping[str, float]]) -> float:
    """What a Ray Train run took beside its stages."""
    names = noted["stages"]
    assert isinstance(names, list)
    return max(0.0, float(noted["seconds"]) - sum(trained[n]["seconds"] for n in names if n in trained))


# ---- accuracy passes ----------------------------------------------------------------------------------------


def _frame(sweep: SweepSeen, record: TrialRecord) -> FrameRate:
    """A frame as the accuracy pass saw it (its neighbours included), and as the runtime measurement did."""
    config = method_spec(record.method).config.from_mapping(record.config)
    assert record.runtime is not None
    found = read_detections(join(sweep.url, record.detections or ""))
    stage_ms = {name: float(np.nanmean(ms)) for name, ms in found.stage_ms.items() if np.isfinite(ms).any()}
    shared = encoder_stages(record.method, config)
    encode = sum(ms for name, ms in stage_ms.items() if name in shared)
    return FrameRate(
        method=record.method,
        settings=record.config,
        encode_ms=encode,
        own_ms=sum(stage_ms.values()) - encode,
        runtime_ms=record.runtime.mean_ms,
    )


def _detection_bytes(sweep: SweepSeen) -> Iterator[float]:
    for record in sweep.records:
        assert record.accuracy is not None
        yield sweep.size(record.detections or "") / max(1, record.accuracy.num_frames)


# ---- the driver ---------------------------------------------------------------------------------------------


def _driver(sweep: SweepSeen, sweeps: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """(seconds of a sweep beside its work, seconds of the driver a trial).

    What lies between the ends of two trials beyond the second one's own seconds is the driver's. What is left of the
    whole then is paid once: Ray's start, that of the first trial's process, the last records and the front.
    """
    seconds = {record.fingerprint: sum(record.seconds.values()) for record in sweep.records}
    between, trials = 0.0, 0
    for noted in sweeps:
        later = noted["trials"][1:]
        between += noted["ended_s"][-1] - noted["ended_s"][0] - sum(seconds.get(name, 0.0) for name in later)
        trials += len(later)
    trial = max(0.0, between) / trials if trials else 0.0
    ahead = sum(noted["seconds"] for what in (TRAIN, DETECT) for noted in noted_times(sweep.url, what))
    wall = sum(noted["seconds"] for noted in sweeps)
    once = wall - ahead - sum(seconds.values()) - trial * len(seconds)
    return max(0.0, once) / len(sweeps), trial
