"""What runs next: a fixed list of trials, or points that Optuna proposes from the records so far.

Both are Ray Tune searchers whose suggestions are ``{"jobs": (TrialJob, ...)}``. Optuna's history is told again from
the records on disk at every start, so nothing of it needs to be kept or repaired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from vodbench.records import TrialRecord
from vodbench.studies import Constraint, KnobValues, Point, method_spaces
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.plan import trial_job
from vodbench.sweeps.samplers import make_sampler
from vodbench.sweeps.steps import TrialContext, TrialJob

METRICS = ("map", "runtime_ms")  # what a trial reports to Tune

# A sampler may keep proposing what is known: after so many times points are drawn at random, and when those are known
# too, the search ends. A Gaussian process (a second a proposal) keeps its favourite until it is told something new.
_PATIENCE = {"gp": 2}
_USUAL_PATIENCE = 10
_MAX_REPEATS = 200

_FARTHEST = 10.0  # beyond a constraint's limit, in limits: what Optuna is told of anything farther


class ListSearch(Searcher):
    """Hands out a list of trials, in order."""

    def __init__(self, jobs: Sequence[TrialJob]) -> None:
        super().__init__()
        self._jobs = list(jobs)

    def suggest(self, trial_id: str) -> Any:
        if not self._jobs:
            return Searcher.FINISHED
        return {"jobs": (self._jobs.pop(0),)}

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
    """

    def __init__(self, context: TrialContext, records: Iterable[TrialRecord]) -> None:
        super().__init__()
        self._context = context
        self._folder = StudyFolder(context.folder)
        self._constraints = context.study.search.constraints
        self._spaces = method_spaces(context.study)
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
        self._optuna.add_trials(history)
        self.num_known = len(history)  # points whose every seed has a record

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its searcher down; a new one starts from the records instead."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        running = {job.fingerprint for _, jobs in self._running.values() for job in jobs}
        for attempt in range(_MAX_REPEATS):
            self._optuna.sampler = self._sampler if attempt < self._patience else self._random
            trial = self._optuna.ask()
            jobs = self._jobs(self._draw(trial))
            fingerprints = {job.fingerprint for job in jobs}
            if fingerprints <= self._known.keys() and attempt < self._patience:
                self._tell(trial, [self._known[f] for f in sorted(fingerprints)])
            elif fingerprints <= self._known.keys() or fingerprints & running:
                self._optuna.tell(trial, state=TrialState.FAIL)
            else:
                self._running[trial_id] = (trial, jobs)
                return {"jobs": jobs}
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
        for name, violation in violations(records, self._constraints).items():
            trial.set_constraint(name, violation)
        self._optuna.tell(trial, values)

    def _draw(self, trial: optuna.Trial) -> Point:
        """The point that Optuna proposes: which entry, then those of its knobs that matter."""
        entry = trial.suggest_categorical("entry", list(range(len(self._spaces))))

        def suggest(swept: KnobValues) -> Any:
            return swept.decode(_suggest(trial, _parameter(entry, swept.name), swept.distribution()))

        return self._spaces[entry].draw(suggest)

    def _jobs(self, point: Point) -> tuple[TrialJob, ...]:
        return tuple(trial_job(point, seed, self._context) for seed in self._context.study.seeds)

    def _history(self) -> list[FrozenTrial]:
        """The known points of this space as finished Optuna trials, in the order they were run."""
        past: dict[frozenset[str], FrozenTrial] = {}
        for record in sorted(self._known.values(), key=lambda r: (r.started, r.fingerprint)):
            for entry, space in enumerate(self._spaces):
                drawn = space.encode(record.config) if record.method == space.spec.name else None
                if drawn is None:
                    continue
                jobs = self._jobs(space.decode(drawn))
                names = frozenset(job.fingerprint for job in jobs)
                if record.fingerprint in names and names <= self._known.keys() and names not in past:
                    past[names] = self._frozen(entry, drawn, [self._known[n] for n in sorted(names)])
        return list(past.values())

    def _frozen(self, entry: int, drawn: Mapping[str, Any], records: Sequence[TrialRecord]) -> FrozenTrial:
        values = objectives(records)
        swept = {knob.name: knob for knob in self._spaces[entry].knobs}
        entries = optuna.distributions.CategoricalDistribution(list(range(len(self._spaces))))
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if values else TrialState.FAIL,
            values=values,
            params={"entry": entry, **{_parameter(entry, name): value for name, value in drawn.items()}},
            distributions={
                "entry": entries,
                **{_parameter(entry, name): swept[name].distribution() for name in drawn},
            },
            constraints=violations(records, self._constraints) if values else None,
        )


def objectives(records: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """(mAP, mean ms), each the mean over seeds; None without records, or when one has no finite figures."""
    pairs = [(r.accuracy.map, r.runtime.mean_ms) for r in records if r.accuracy and r.runtime]
    if not pairs or len(pairs) < len(records) or not all(math.isfinite(value) for pair in pairs for value in pair):
        return None
    maps, runtimes_ms = zip(*pairs, strict=True)
    return math.fsum(maps) / len(pairs), math.fsum(runtimes_ms) / len(pairs)


def violations(records: Sequence[TrialRecord], constraints: Sequence[Constraint]) -> dict[str, float]:
    """By constraint, how far a point lies beyond the limit (mean over seeds); at most 0 where it keeps to it.

    Shares of the limit, so that samplers may add them up; bounded, since a latency without end is infinitely far.
    """
    return {
        str(constraint): min(math.fsum(constraint.violation(r) for r in records) / len(records), _FARTHEST)
        for constraint in constraints
    }


def _parameter(entry: int, knob: str) -> str:
    return f"{entry}.{knob}"


def _suggest(trial: optuna.Trial, name: str, wanted: optuna.distributions.BaseDistribution) -> Any:
    d = optuna.distributions
    if isinstance(wanted, d.IntDistribution):
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    if isinstance(wanted, d.FloatDistribution):
        return trial.suggest_float(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, d.CategoricalDistribution)
    return trial.suggest_categorical(name, wanted.choices)
