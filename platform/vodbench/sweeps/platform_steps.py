"""The steps of a trial as the platform does them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeVar

from vodbench.checkpoints import checkpoint_url
from vodbench.data_source import DataSource
from vodbench.evaluation import TruthSet, evaluate, truth_set
from vodbench.features import GB, CacheSettings
from vodbench.knobs import MethodConfig
from vodbench.records import Accuracy, Runtime
from vodbench.spec import Dataset
from vodbench.storage import join
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.rung_steps import may_stop, pause_after, score_paused
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.sweeps.times import DETECT, TRAIN, note_time
from vodbench.sweeps.trial import DETECTIONS
from vodbench.timing import measure_runtime, working

_T = TypeVar("_T")


class PlatformSteps:
    """Ray Train, the accuracy pass, evaluation and the runtime measurement; see ``Steps``."""

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        from vodbench.training import training_fingerprint

        split = context.study.data.train
        return training_fingerprint(job.method, job.config, context.data_fingerprint, job.seed, split)

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        """All trainings in one Ray Train run (starting one costs as much as a small training), then one accuracy pass
        a checkpoint: the data is read and each frame encoded once for all trials that differ in inference knobs."""
        for seed in dict.fromkeys(job.seed for job in jobs):
            trainings = {self.training_fingerprint(job, context): job for job in jobs if job.seed == seed}
            self._train([(job.method, job.config) for job in trainings.values()], seed, context, on_progress)
        by_checkpoint: dict[str, list[TrialJob]] = {}
        for job in jobs:
            by_checkpoint.setdefault(self.training_fingerprint(job, context), []).append(job)
        for checkpoint, sharing in by_checkpoint.items():
            self._detect(sharing, context, checkpoint, on_progress)

    def may_stop(self, job: TrialJob, context: TrialContext) -> bool:
        return may_stop(job, context, self.training_fingerprint(job, context))

    def train_to(self, jobs: Sequence[TrialJob], share: float, context: TrialContext, on_progress: OnProgress) -> None:
        """One Ray Train run for the trainings of a seed."""
        for seed in dict.fromkeys(job.seed for job in jobs):
            own = [job for job in jobs if job.seed == seed]
            until = [pause_after(job, share) for job in own]
            self._train([(job.method, job.config) for job in own], seed, context, on_progress, until)

    def score(self, job: TrialJob, share: float, context: TrialContext, on_progress: OnProgress) -> float:
        return score_paused(job, share, context, self.training_fingerprint(job, context), on_progress)

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        return self._train([(job.method, job.config)], job.seed, context, on_progress)[0]

    def _train(
        self,
        trainings: Sequence[tuple[str, MethodConfig]],
        seed: int,
        context: TrialContext,
        on_progress: OnProgress,
        until: Sequence[int | None] | None = None,
    ) -> list[str]:
        from vodbench.training import train_all

        began, trained = time.monotonic(), set[str]()
        weights = train_all(
            trainings,
            context.source,
            split=context.study.data.train,
            store=context.folder,
            seed=seed,
            workers=context.study.workers.training,
            threads=context.study.workers.training_threads,
            on_progress=lambda stage, done, total, _: on_progress(f"training {stage}", done, total),
            revision=context.revision,
            until=until,
            on_trained=trained.update,
        )
        if trained:
            note_time(context.folder, TRAIN, time.monotonic() - began, stages=sorted(trained))
        return weights

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        self._detect([job], context, checkpoint, on_progress)

    def _detect(
        self, jobs: Sequence[TrialJob], context: TrialContext, checkpoint: str, on_progress: OnProgress
    ) -> None:
        """Write the detections of trials that share a checkpoint."""
        from vodbench.streaming import detect_configs

        study, folder, began = context.study, StudyFolder(context.folder), time.monotonic()
        doing = "detecting" if len(jobs) == 1 else f"detecting {jobs[0].method}, {len(jobs)} settings"
        computed = detect_configs(
            checkpoint_url(context.folder, checkpoint),
            [(job.config, folder.trial_url(job.fingerprint, DETECTIONS)) for job in jobs],
            context.source,
            study.data.val,
            workers=study.workers.evaluation,
            snippets=_snippets(context),
            on_progress=lambda done, total: on_progress(doing, done, total),
            device=study.runtime.device,
            cache=cache_settings(context),
        )
        if computed:
            trials = [job.fingerprint for job in jobs]
            seconds = time.monotonic() - began
            note_time(context.folder, DETECT, seconds, trials=trials, frames=computed, workers=study.workers.evaluation)

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        from vodbench.detections import read_detections

        with working():
            detections = read_detections(StudyFolder(context.folder).trial_url(job.fingerprint, DETECTIONS))
            settings = context.study.accuracy
            return evaluate(_truth(context), detections, settings.protocol, settings.bootstrap)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        from vodbench.checkpoints import load_checkpoint
        from vodbench.device import pick_device

        settings = context.study.runtime
        device = pick_device(settings.device)
        return measure_runtime(
            load_checkpoint(checkpoint_url(context.folder, checkpoint), job.method).build(device),
            job.config,
            context.source,
            context.study.data.val,
            num_snippets=settings.snippets,
            device=device,
            threads=settings.threads,
            name=job.method,
        )


def cache_settings(context: TrialContext) -> CacheSettings | None:
    """The feature cache of a pass that begins now; None where the study has none."""
    study, cache = context.study, context.study.cache
    one_by_one = study.search.sampler != "grid" or study.workers.concurrent_trials > 1
    if cache.dtype == "off" or (cache.url is None and cache.dtype == "fp32" and not one_by_one):
        return None
    url = cache.url or join(context.folder, "features")
    return CacheSettings(url=url, precision=cache.dtype, budget_bytes=max(1, round(cache.budget_gb * GB)))


def _snippets(context: TrialContext) -> list[str] | None:
    """The validation snippets that accuracy is taken on: all, or so many evenly spaced over the list."""
    wanted = context.study.accuracy.snippets
    if wanted == "all":
        return None
    listed = [info.id for info in _dataset(_key(context.source)).snippets(context.study.data.val)]
    return evenly_spaced(listed, wanted)


def evenly_spaced(listed: Sequence[_T], wanted: int | Literal["all"]) -> list[_T]:
    """So many of a list, evenly spaced over it; all of it where it has no more."""
    count = len(listed) if wanted == "all" else min(wanted, len(listed))
    return [listed[i * len(listed) // count] for i in range(count)]


def _truth(context: TrialContext) -> TruthSet:
    snippets = _snippets(context)
    return _cached_truth(_key(context.source), context.study.data.val, None if snippets is None else tuple(snippets))


# A trial's process is used again by the next trial: annotations are read once.


@lru_cache(maxsize=2)
def _cached_truth(source: str, split: str, snippets: tuple[str, ...] | None) -> TruthSet:
    return truth_set(_dataset(source), split, snippets)


@lru_cache(maxsize=2)
def _dataset(source: str) -> Dataset:
    return DataSource(**json.loads(source)).open()


def _key(source: DataSource) -> str:
    return json.dumps({"root": source.root, "kind": source.kind, "options": dict(source.options)}, sort_keys=True)
