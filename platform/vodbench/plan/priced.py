"""A study's work with what each part of it takes: plain numbers, which a simulation or a bound can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vodbench.errors import UserError
from vodbench.plan.costs import HOW, Rates
from vodbench.plan.data import Video
from vodbench.plan.stages import PlannedTrial, StudyWork
from vodbench.streaming.split import CONFIGS_A_PASS
from vodbench.training.fingerprints import PlannedStage


@dataclass(frozen=True, kw_only=True)
class Training:
    """One stage: ``seconds`` with all its processes."""

    name: str
    parent: str | None
    seconds: float
    read_bytes: float = 0.0
    model_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """``encode_s`` and ``own_s`` are process-seconds of its accuracy pass, ``score_s`` and ``measure_s`` seconds."""

    name: str
    chain: tuple[str, ...]  # trainings, first to last
    encoding: str | None
    encode_s: float
    own_s: float
    score_s: float
    measure_s: float
    seed: int = 0
    feature_bytes: float | None = 0.0  # of all its encoded frames; None: not known


@dataclass(frozen=True, kw_only=True)
class Work:
    """All of it. ``read_bytes``: of one accuracy pass. ``kept``: the share of encoded frames that the cache holds."""

    trainings: Mapping[str, Training]
    units: tuple[tuple[Trial, ...], ...]
    ahead: bool = False
    train_slots: int = 1
    detect_slots: int = 1
    start_s: float = 0.0
    train_start_s: float = 0.0
    pass_start_s: float = 0.0
    first_pass_s: float = 0.0  # more for the first
    trial_s: float = 0.0
    read_bytes: float = 0.0
    detection_bytes: float = 0.0  # of a trial
    kept: float = 0.0
    cache_bytes: int | None = None
    configs_a_pass: int = CONFIGS_A_PASS

    @property
    def trials(self) -> list[Trial]:
        return [trial for unit in self.units for trial in unit]

    @property
    def feature_bytes(self) -> float | None:
        """Of every distinct encoding, whether the cache has room for it or not; None where one is not known."""
        sizes = {trial.encoding: trial.feature_bytes for trial in self.trials if trial.encoding is not None}
        if any(size is None for size in sizes.values()):
            return None
        return sum(size for size in sizes.values() if size is not None)


def priced(work: StudyWork, rates: Rates, video: Video) -> Work:
    """The work at these rates. ``UserError`` for a stage or method that they do not have."""
    frame_bytes = video.frame_bytes or rates.frame_bytes or 0.0
    workers = work.study.workers
    trainings = {name: _training(stage, rates, workers.training, frame_bytes) for name, stage in work.trainings.items()}
    trials = {trial.job.fingerprint: _trial(trial, rates, video) for trial in work.trials}
    units = tuple(tuple(trials[trial.job.fingerprint] for trial in unit) for unit in work.units)
    all_of_it = Work(
        trainings=trainings,
        units=units,
        ahead=work.ahead,
        train_slots=workers.training,
        detect_slots=workers.evaluation,
        start_s=rates.start_s,
        train_start_s=rates.train_start_s,
        pass_start_s=rates.pass_start_s,
        first_pass_s=rates.first_pass_s,
        trial_s=rates.trial_s,
        read_bytes=video.judged_frames * frame_bytes,
        detection_bytes=video.judged_frames * rates.detection_bytes,
        cache_bytes=work.cache_bytes,
    )
    return _with_kept(all_of_it)


def _training(planned: PlannedStage, rates: Rates, processes: int, frame_bytes: float) -> Training:
    stage, rate = planned.stage, rates.stage(planned)
    if rate.clip_s is None:
        raise UserError(f"stage '{stage.name}' of {stage.method} has counted operations only; give --tflops with them")
    clips = stage.schedule.iterations * stage.schedule.batch_size
    return Training(
        name=f"{stage.method} {stage.name}",
        parent=planned.parent,
        seconds=rate.start_s + rate.clip_s * clips / processes,
        read_bytes=clips * (1 + stage.clips.num_supports) * frame_bytes,
        model_bytes=rate.model_bytes,
    )


def _trial(trial: PlannedTrial, rates: Rates, video: Video) -> Trial:
    job = trial.job
    rate = rates.frame(job.method, job.config)
    if rate.encode_ms is None or rate.own_ms is None:
        raise UserError(f"a frame of {job.method} has no encode_ms and own_ms in the rates; {HOW}")
    runtime_ms = rate.runtime_ms or rate.encode_ms + rate.own_ms
    return Trial(
        name=" ".join([job.method, *(f"{name}={value}" for name, value in job.knobs.items())]),
        chain=tuple(stage.fingerprint for stage in trial.chain),
        encoding=trial.encoding,
        encode_s=video.judged_frames * rate.encode_ms / 1e3,
        own_s=video.judged_frames * (rate.own_ms / 1e3 + rates.part_s),
        score_s=video.judged_frames * rates.score_s,
        measure_s=rates.measure_start_s + rates.measure_passes * video.timed_frames * runtime_ms / 1e3,
        seed=job.seed,
        feature_bytes=None if rate.feature_bytes is None else video.judged_frames * rate.feature_bytes,
    )


def _with_kept(work: Work) -> Work:
    """With the share of encoded frames that the cache has room for; all of them where their size is not known."""
    if work.cache_bytes is None:
        return work
    size = work.feature_bytes
    return replace(work, kept=1.0 if not size else min(1.0, work.cache_bytes / size))
