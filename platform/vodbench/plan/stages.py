"""What work a study is: its trainings, each once, and its trials, each with the chain of trainings that it needs.

Nothing is decided here: points, order, stages, fingerprints and the use of the feature cache are asked of the
functions that a sweep itself asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from vodbench.data_source import DataSource
from vodbench.features.sharing import shares_frames
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import FrameEncoder, Method
from vodbench.studies import Study
from vodbench.sweeps.plan import grid_jobs
from vodbench.sweeps.platform_steps import PlatformSteps, cache_settings
from vodbench.sweeps.steps import TrialContext, TrialJob
from vodbench.training.fingerprints import PlannedStage, plan_stages

_SMALL_INPUT = {"short_side": 64, "max_side": 64}  # enough to see which stages run
_NO_DATA = "planned"  # stands for the fingerprint of data that nobody has opened


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """One trial: the stages that its weights need, first to last, and the frames that it can share."""

    job: TrialJob
    chain: tuple[PlannedStage, ...]
    encoding: str | None  # equal for trials that can use the same encoded frames; None: it wants images

    @property
    def training(self) -> str:
        """The fingerprint of its weights."""
        return self.chain[-1].fingerprint


@dataclass(frozen=True, kw_only=True)
class StudyWork:
    """All that a study asks for, in running order.

    ``units``: what Tune runs as one trial: a trial of a grid, or a point of a search with its trials (one a seed).
    ``ahead``: trainings and accuracy passes come first, for all trials at once. ``cache_bytes``: what may be kept of
    encoded frames; None where none are kept.
    """

    study: Study
    units: tuple[tuple[PlannedTrial, ...], ...]
    ahead: bool
    cache_bytes: int | None

    @property
    def trials(self) -> list[PlannedTrial]:
        return [trial for unit in self.units for trial in unit]

    @property
    def trainings(self) -> Mapping[str, PlannedStage]:
        """Every stage by fingerprint, once, however many trials need it."""
        return {stage.fingerprint: stage for trial in self.trials for stage in trial.chain}


def work_of(study: Study, data_fingerprint: str = _NO_DATA) -> StudyWork:
    """The work of a study with its own ``workers``. ``UserError`` for a knob or method that is not there.

    The points of a search depend on results: instead of them, as many as it runs are drawn at random (by its seed).
    """
    source = DataSource(root=study.data.root or "unknown", kind=study.data.dataset, options=study.data.options)
    context = TrialContext(study, source, data_fingerprint, f"runs/{study.name}")
    built: dict[str, Method] = {}
    grid = study.search.sampler == "grid"
    jobs = [(job,) for job in grid_jobs(context, PlatformSteps())] if grid else list(_drawn(context))
    cache = cache_settings(context)
    return StudyWork(
        study=study,
        units=tuple(tuple(_trial(job, context, built) for job in unit) for unit in jobs),
        ahead=grid and study.workers.concurrent_trials == 1,
        cache_bytes=None if cache is None else cache.budget_bytes,
    )


def _drawn(context: TrialContext) -> Iterator[tuple[TrialJob, ...]]:
    """Distinct points of a search, one after the other, as many as it may run."""
    from vodbench.sweeps.search import StudySearch, jobs_of

    study = context.study
    search = study.search.model_copy(update={"sampler": "random", "warm_start": ()})
    asked = TrialContext(
        study.model_copy(update={"search": search}), context.source, context.data_fingerprint, "unused"
    )
    points = StudySearch(asked, [])
    assert search.trials is not None
    for number in range(search.trials):
        suggestion = points.suggest(str(number))
        if not isinstance(suggestion, dict):  # the space has fewer points
            return
        yield jobs_of(suggestion)


def _trial(job: TrialJob, context: TrialContext, built: dict[str, Method]) -> PlannedTrial:
    chain = plan_stages(job.method, job.config, context.data_fingerprint, job.seed, context.study.data.train)
    weights = chain[-1].fingerprint
    if weights not in built:
        with torch.device("meta"):  # no weights are needed to ask what can be shared
            built[weights] = method_spec(job.method).build(job.config, 1)
    return PlannedTrial(job=job, chain=chain, encoding=_encoding(built[weights], job.config, weights))


def _encoding(method: Method, config: MethodConfig, weights: str) -> str | None:
    """What the encoded frames of a configuration depend on; None where its stream takes images."""
    with torch.device("meta"):
        if not shares_frames(method, config):
            return None
    assert isinstance(method, FrameEncoder)
    return fingerprint(weights, dict(method.encoding_settings(config)))


def encoder_stages(method: str, config: MethodConfig) -> frozenset[str]:
    """The names of the timed stages that are part of encoding a frame; none where frames cannot be shared."""
    small = config.replace(**{name: value for name, value in _SMALL_INPUT.items() if name in config.knobs()})
    return _encoder_stages(method, json.dumps(small.to_mapping(), sort_keys=True))


@lru_cache
def _encoder_stages(method: str, settings: str) -> frozenset[str]:
    spec = method_spec(method)
    config = spec.config.from_mapping(json.loads(settings))
    built = spec.build(config, 1)
    assert isinstance(built, torch.nn.Module)
    built.eval()
    if not shares_frames(built, config):
        return frozenset()
    assert isinstance(built, FrameEncoder)
    clock = _Names()
    with torch.inference_mode():
        built.encode(np.zeros((64, 64, 3), np.uint8), config, clock)
    return frozenset(clock.names)


class _Names:
    """A clock that only listens."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.names.add(name)
        yield
