"""Ray Tune around trials: which run at once, where, and what happens when one's process dies.

Tune's own state lives in a temporary folder and is thrown away: the records on disk are the truth.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from vodbench.interruption import from_outside
from vodbench.records import TrialRecord
from vodbench.storage import filesystem, join
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.places import objectives
from vodbench.sweeps.search import METRICS, jobs_of
from vodbench.sweeps.steps import Steps, TrialContext, TrialJob
from vodbench.sweeps.trial import failed_record, run_trial
from vodbench.tracking.content import run_name

# Set before Tune starts: no result files beside ours, no snapshots of state that nobody restores.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune would return as if the sweep had ended
}
# Tune would hand these of the driver to its trials, in a runtime environment that Ray writes into its logs. Trials find
# them where all workers do: in the environment of their node.
_SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
_PROGRESS_SECONDS = 1.0
_RESTARTS = 2  # of a trial whose process died: it continues from what is on disk


class SweepEvents(tune.Callback):
    """Turns Tune's events into records: of trials that ended, and of those whose process died for good."""

    def __init__(
        self,
        context: TrialContext,
        on_progress: Callable[[str, str, str, int, int], None],
        on_records: Callable[[str, list[TrialRecord]], None],
        on_step: Callable[[], None],
    ) -> None:
        self._context = context
        self._on_progress = on_progress
        self._on_records = on_records
        self._on_step = on_step

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks down with the rest of its state; nobody restores them."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "doing" in result:
            self._on_progress(trial.trial_id, result["name"], result["doing"], result["progress"], result["total"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial, "its process reported no result")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial, f"its process died {_RESTARTS + 1} times ({_last_line(trial)})")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._on_step()

    def _ended(self, trial: Trial, problem: str) -> None:
        folder = StudyFolder(self._context.folder)
        records = []
        for job in jobs_of(trial.config):
            record = folder.record(job.fingerprint)
            if record is None:
                record = failed_record(job, self._context, problem)
                folder.write_record(record)
            records.append(record)
        self._on_records(trial.trial_id, records)


def run_tune(context: TrialContext, steps: Steps, search: Searcher, num_trials: int, events: SweepEvents) -> None:
    """Run what ``search`` suggests, at most ``num_trials`` times, until it has nothing more. Needs a running Ray."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # tracebacks of what we record, or raise, in a line
    class_cache.ENV_VARS_TO_PROPAGATE -= _SECRETS

    def trainable(config: dict[str, Any]) -> None:
        tune.report(_run_jobs(jobs_of(config), context, steps))

    state = join(context.folder, ".tune")
    fs, path = filesystem(state)
    _remove(fs, path)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 0.01}),  # a token: the work asks for its own workers
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=num_trials,
            max_concurrent_trials=context.study.workers.concurrent_trials,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.trial_id),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            callbacks=[events],
            failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        # What a callback raised, as text only: the error itself tells whether it may pass.
        raise error.__context__ or error from None
    finally:
        with _no_matter_if_out_of_reach():
            _remove(fs, path)


def _run_jobs(jobs: tuple[TrialJob, ...], context: TrialContext, steps: Steps) -> dict[str, Any]:
    """In the trial's process: its job (one for each seed in a search), and the objectives that Optuna is told."""
    last = time.monotonic()  # a report costs as much as an empty trial: the first comes when there is time for one

    def on_progress(doing: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            last = now
            tune.report({"doing": doing, "progress": done, "total": total, "name": name, **_nothing()})

    records = []
    for job in jobs:
        name = run_name(job)
        records.append(run_trial(job, context, steps, on_progress))
    return dict(zip(METRICS, objectives(records) or _nothing().values(), strict=True))


def _nothing() -> dict[str, float]:
    return {name: float("nan") for name in METRICS}


def _last_line(trial: Trial) -> str:
    error = trial.get_error()
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "no reason given"


@contextmanager
def _no_matter_if_out_of_reach() -> Iterator[None]:
    """Around tidying up, which the next sweep does again."""
    try:
        yield
    except Exception as error:
        if not from_outside(error):
            raise


def _remove(fs: Any, path: str) -> None:
    if fs.exists(path):
        fs.rm(path, recursive=True)
