"""Delivering records from disk to MLflow: idempotent, so that it can be repeated after any interruption."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vodbench.errors import UserError
from vodbench.front.hypervolume import Step, history
from vodbench.records import TrialRecord
from vodbench.storage import exists, join
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content
from vodbench.tracking.server import artifact_location, connect
from vodbench.tracking.trial_runs import Place, TrialRuns
from vodbench.tracking.whole_runs import tables_of
from vodbench.tracking.writing import attach, log_all

if TYPE_CHECKING:
    from mlflow.entities import Experiment

_FILES = ("study.yaml", "front.html", "front.png", "front.json", "report.html")
_PAGE = 1000  # MLflow's limit of metrics a request


class Delivery:
    """One study folder's way into one tracking server. Every request may raise what MLflow or its database raises."""

    def __init__(self, uri: str, folder: StudyFolder) -> None:
        self._client = connect(uri)
        self._folder = folder
        self._study = folder.study()
        self._identity = folder.identity()
        experiment = self._find_experiment(artifact_location(uri))
        self._experiment = str(experiment.experiment_id)
        self._parent = self._find_parent()
        tables = tables_of(self._client, self._experiment, str(experiment.artifact_location))
        place = Place(self._experiment, self._parent, self._identity.id)
        self._runs = TrialRuns(self._client, tables, folder, place)
        self._logged_steps: set[int] | None = None

    def trials(self) -> Collection[str]:
        """Fingerprints of those that have a run."""
        return self._runs.there().keys()

    def deliver(self, records: Iterable[TrialRecord]) -> int:
        """Make or complete the trials' runs; how many were not there, or not whole."""
        return self._runs.deliver(records)

    def deliver_all(self, records: Iterable[TrialRecord]) -> int:
        """Deliver what is missing, bring the tags of front and constraints up to date; how many runs were changed."""
        known = sorted(records, key=lambda r: (r.started, r.fingerprint))
        delivered = self.deliver(known)
        self._runs.mark(known)
        return delivered

    def log_progress(self, steps: Sequence[Step]) -> None:
        """The hypervolume after each complete trial: a metric of the parent run whose step is the number of trials."""
        from mlflow.entities import Metric

        if self._logged_steps is None:
            self._logged_steps = {m.step for m in self._client.get_metric_history(self._parent, "hypervolume")}
        missing = [
            Metric("hypervolume", step.hypervolume, step.ended_ms, number)
            for number, step in enumerate(steps, start=1)
            if number not in self._logged_steps
        ]
        for start in range(0, len(missing), _PAGE):
            self._client.log_batch(self._parent, missing[start : start + _PAGE], [], [])
        self._logged_steps |= {metric.step for metric in missing}

    def finish(self, records: Iterable[TrialRecord], *, complete: bool) -> None:
        """Bring the parent run up to date: totals, the resolved study, plots, and whether the sweep is over."""
        known = list(records)
        figures = summary(known)
        now = max((content.ended_ms(r) for r in known), default=_began_ms(self._identity.began))
        log_all(self._client, self._parent, params={}, metrics=figures, timestamp_ms=now)
        self.log_progress(history(self._folder.url, known))
        for name in _FILES:
            if exists(url := join(self._folder.url, name)):
                attach(self._client, self._parent, url)
        self._client.set_terminated(self._parent, "FINISHED" if complete else "KILLED", end_time=now)

    def stop(self) -> None:
        """The parent run of a sweep that was ended."""
        self._client.set_terminated(self._parent, "KILLED")

    def _find_experiment(self, location: str | None) -> Experiment:
        name = self._study.name
        found = self._client.get_experiment_by_name(name)
        if found is None:
            from mlflow.exceptions import MlflowException

            # Two sweeps may begin at once: the loser of the race takes the winner's experiment.
            with suppress(MlflowException):
                self._client.create_experiment(name, artifact_location=location, tags=self._experiment_tags())
            found = self._client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise UserError(f"MLflow experiment '{name}' is deleted there; restore it, or give the study another name")
        return found

    def _experiment_tags(self) -> dict[str, str]:
        """Its description, and its kind: without one, MLflow's pages may take it for a study of language models."""
        return {"mlflow.note.content": self._study.title, "mlflow.experimentKind": "custom_model_development"}

    def _find_parent(self) -> str:
        mine = f"tags.`{content.SWEEP_TAG}` = '{self._identity.id}' and tags.`vodbench.role` = 'sweep'"
        runs = self._client.search_runs([self._experiment], mine, max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        study = self._study
        tags = {
            content.SWEEP_TAG: self._identity.id,
            "vodbench.role": "sweep",
            "study": study.name,
            "data": self._identity.data_fingerprint,
            "mlflow.source.name": "vodbench",
            "mlflow.note.content": study.title,
        }
        began = _began_ms(self._identity.began)
        run = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=f"sweep {study.name}")
        settings = {"sampler": study.search.sampler, "preset": study.preset, "protocol": study.accuracy.protocol}
        log_all(self._client, str(run.info.run_id), params=settings, metrics={}, timestamp_ms=began)
        return str(run.info.run_id)


def summary(records: Iterable[TrialRecord]) -> dict[str, float]:
    """Totals of a sweep."""
    known = list(records)
    complete = [r for r in known if r.status == "complete"]
    states = ("complete", "failed", "stopped")
    figures: dict[str, Any] = {f"trials_{state}": sum(r.status == state for r in known) for state in states}
    figures["map"] = max((r.accuracy.map for r in complete if r.accuracy), default=None)
    figures["runtime_ms"] = min((r.runtime.mean_ms for r in complete if r.runtime), default=None)
    return {name: float(value) for name, value in figures.items() if value is not None}


def _began_ms(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)
