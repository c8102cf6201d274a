"""What runs next: a fixed list of trials, or points that Optuna proposes from the records so far.

Both are Ray Tune searchers; ``jobs_of`` says which jobs a suggestion stands for. Optuna's history is told again from
the records on disk at every start, so nothing of it needs to be kept or repaired.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray import cloudpickle
from ray.tune.search import Searcher

from vodbench.records import TrialRecord
from vodbench.studies import Point, method_spaces
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.optuna_space import OptunaSpace
from vodbench.sweeps.places import objectives
from vodbench.sweeps.plan import trial_job
from vodbench.sweeps.samplers import make_sampler
from vodbench.sweeps.steps import TrialContext, TrialJob
from vodbench.sweeps.warm_start import EarlierPoint

METRICS = ("map", "runtime_ms")  # what a trial reports to Tune

# A sampler may keep proposing what is known: after so many times points are drawn at random, and when those are known
# too, the search ends. A Gaussian process (a second a proposal) keeps its favourite until it is told something new.
_PATIENCE = {"gp": 2}
_USUAL_PATIENCE = 10
_MAX_REPEATS = 200


def jobs_of(suggestion: Mapping[str, Any]) -> tuple[TrialJob, ...]:
    """The jobs of a suggestion, or of Tune's trial for it: one for each seed."""
    jobs: tuple[TrialJob, ...] = cloudpickle.loads(suggestion["jobs"])
    return jobs


def _suggestion(jobs: tuple[TrialJob, ...]) -> dict[str, bytes]:
    """Pickled: Tune copies a trial's configuration value by value several times, and bytes not at all."""
    return {"jobs": cloudpickle.dumps(jobs)}  # type: ignore[no-untyped-call]


class ListSearch(Searcher):
    """Hands out a list of trials, in order."""

    def __init__(self, jobs: Sequence[TrialJob]) -> None:
        super().__init__()
        self._jobs = list(jobs)

    def suggest(self, trial_id: str) -> Any:
        if not self._jobs:
            return Searcher.FINISHED
        return _suggestion((self._jobs.pop(0),))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing follows from a result."""

    def remember(self, record: TrialRecord) -> None:
        """Nothing follows from a record."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: a new search starts from the records."""

    def restore(self, checkpoint_path: str) -> None:
        """See ``save``."""


class StudySearch(Searcher):
    """Two-objective Optuna search (mAP up, runtime down) over a study's conditional space, by ask and tell.

    Ray's own ``OptunaSearch`` leaves a trial without finite objectives running for ever and runs a repeated point
    again. Here the first is told as failed, and a point that was already evaluated is told its values at once.

    ``earlier``: points of other studies. Optuna learns from them; they are no trials of this study.
    """

    def __init__(
        self, context: TrialContext, records: Iterable[TrialRecord], earlier: Sequence[EarlierPoint] = ()
    ) -> None:
        super().__init__()
        self._context = context
        self._folder = StudyFolder(context.folder)
        self._space = OptunaSpace(method_spaces(context.study), context.study.search.constraints)
        self._known = {record.fingerprint: record for record in records}
        self._running: dict[str, tuple[optuna.Trial, tuple[TrialJob, ...]]] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._patience = _PATIENCE.get(context.study.search.sampler, _USUAL_PATIENCE)
        self._sampler = make_sampler(context.study.search)
        self._random = optuna.samplers.RandomSampler(seed=context.study.search.seed)
        self._optuna = optuna.create_study(
            study_name=context.study.name, directions=["maximize", "minimize"], sampler=self._sampler
        )
        history = self._history()
        own = {_params(trial) for trial in history}
        taught = [self._space.finished(point.place, point.records) for point in earlier]
        self._optuna.add_trials([trial for trial in taught if _params(trial) not in own] + history)
        self.num_known = len(history)  # points whose every seed has a record

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its searcher down; a new one starts from the records instead."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        running = {job.fingerprint for _, jobs in self._running.values() for job in jobs}
        for attempt in range(_MAX_REPEATS):
            self._optuna.sampler = self._sampler if attempt < self._patience else self._random
            trial = self._optuna.ask()
            jobs = self._jobs(self._space.draw(trial))
            fingerprints = {job.fingerprint for job in jobs}
            if fingerprints <= self._known.keys() and attempt < self._patience:
                self._tell(trial, [self._known[f] for f in sorted(fingerprints)])
            elif fingerprints <= self._known.keys() or fingerprints & running:
                self._optuna.tell(trial, state=TrialState.FAIL)
            else:
                self._running[trial_id] = (trial, jobs)
                return _suggestion(jobs)
        return None if running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial, jobs = self._running.pop(trial_id)
        records = [self._folder.record(job.fingerprint) for job in jobs]
        # A trial whose process died leaves no record before this call, or a failed one.
        self._tell(trial, [record for record in records if record] if all(records) else [])

    def remember(self, record: TrialRecord) -> None:
        """A record was written: its point is not proposed again."""
        self._known[record.fingerprint] = record

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: a new search starts from the records."""

    def restore(self, checkpoint_path: str) -> None:
        """See ``save``."""

    def _tell(self, trial: optuna.Trial, records: Sequence[TrialRecord]) -> None:
        """What came out of a point: the records of its seeds."""
        values = objectives(records)
        if values is None:
            self._optuna.tell(trial, state=TrialState.FAIL)
            return
        for name, violation in self._space.violations(records).items():
            trial.set_constraint(name, violation)
        self._optuna.tell(trial, values)

    def _jobs(self, point: Point) -> tuple[TrialJob, ...]:
        return tuple(trial_job(point, seed, self._context) for seed in self._context.study.seeds)

    def _history(self) -> list[FrozenTrial]:
        """The known points of this space as finished Optuna trials, in the order they were run."""
        past: dict[frozenset[str], FrozenTrial] = {}
        for record in sorted(self._known.values(), key=lambda r: (r.started, r.fingerprint)):
            for place in self._space.places(record):
                names = frozenset(job.fingerprint for job in self._jobs(self._space.point(place)))
                if record.fingerprint in names and names <= self._known.keys() and names not in past:
                    past[names] = self._space.finished(place, [self._known[n] for n in sorted(names)])
        return list(past.values())


def _params(trial: FrozenTrial) -> str:
    return json.dumps(trial.params, sort_keys=True)
