"""Delivering records from disk to MLflow: idempotent, so that it can be repeated after any interruption.

A trial's run is found by tags that it is created with (sweep and trial fingerprint); a crash between any two requests
leaves a run that the next delivery completes. A tag written last says that nothing is missing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.front.hypervolume import Step, history
from vodbench.front.pareto import pareto_front
from vodbench.records import TrialRecord
from vodbench.storage import exists, join, read_bytes
from vodbench.studies.constraints import violated
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content
from vodbench.tracking.server import artifact_location, connect

if TYPE_CHECKING:
    from mlflow.entities import Run

_PLOTS = ("front.html", "front.png", "front.json", "report.html")
_BATCH = 100  # MLflow's limit of params and tags a request
_PAGE = 1000


class Delivery:
    """One study folder's way into one tracking server. Every request may raise what MLflow raises."""

    def __init__(self, uri: str, folder: StudyFolder) -> None:
        self._client = connect(uri)
        self._folder = folder
        self._study = folder.study()
        self._identity = folder.identity()
        self._experiment = self._find_experiment(artifact_location(uri))
        self._parent = self._find_parent()
        self._runs = self._find_runs()
        self._logged_steps: set[int] | None = None

    def deliver(self, record: TrialRecord) -> bool:
        """Make or complete the trial's run; False when everything was there already."""
        digest = fingerprint(record.to_json())
        run = self._runs.get(record.fingerprint)
        if run is not None and run.data.tags.get(content.DELIVERED_TAG) == digest:
            return False
        if run is None:
            run = self._create(content.run_name(record), record)
        run_id = str(run.info.run_id)
        self._log(run_id, content.params(record, self._study), content.metrics(record), content.started_ms(record))
        self._set_tags(run_id, content.tags(record))
        if record.reason is None and "reason" in run.data.tags:  # it failed once, and was run again
            self._client.delete_tag(run_id, "reason")
        if record.detections is not None:
            self._attach(run_id, join(self._folder.url, record.detections))
        status = {"complete": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[record.status]
        self._client.set_terminated(run_id, status, end_time=content.ended_ms(record))
        self._set_tags(run_id, {content.DELIVERED_TAG: digest})
        self._runs[record.fingerprint] = self._client.get_run(run_id)
        return True

    def deliver_all(self, records: Iterable[TrialRecord]) -> int:
        """Deliver what is missing, bring the tags of front and constraints up to date; how many runs were changed."""
        known = sorted(records, key=lambda r: (r.started, r.fingerprint))
        delivered = sum([self.deliver(record) for record in known])
        constraints = self._study.search.constraints
        for record, on_front in zip(known, pareto_front(known), strict=True):
            marks = {"front": "yes" if on_front else "no"}
            if constraints and record.status == "complete":
                marks["feasible"] = "no" if violated(record, constraints) else "yes"
            self._set_changed_tags(self._runs[record.fingerprint], marks)
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
        self._log(self._parent, {}, figures, now)
        self.log_progress(history(self._folder.url, known))
        self._attach(self._parent, self._folder.study_url)
        for name in _PLOTS:
            self._attach(self._parent, join(self._folder.url, name))
        self._client.set_terminated(self._parent, "FINISHED" if complete else "KILLED", end_time=now)

    def stop(self) -> None:
        """The parent run of a sweep that was ended."""
        self._client.set_terminated(self._parent, "KILLED")

    def _find_experiment(self, location: str | None) -> str:
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
        return str(found.experiment_id)

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
        self._log(str(run.info.run_id), settings, {}, began)
        return str(run.info.run_id)

    def _find_runs(self) -> dict[str, Run]:
        """This sweep's trial runs by trial fingerprint."""
        mine = f"tags.`{content.SWEEP_TAG}` = '{self._identity.id}' and tags.`vodbench.role` = 'trial'"
        found: dict[str, Run] = {}
        page = None
        while True:
            runs = self._client.search_runs([self._experiment], mine, max_results=_PAGE, page_token=page)
            found |= {run.data.tags[content.TRIAL_TAG]: run for run in runs}
            page = runs.token
            if not page:
                return found

    def _create(self, name: str, record: TrialRecord) -> Run:
        tags = {
            content.SWEEP_TAG: self._identity.id,
            content.TRIAL_TAG: record.fingerprint,
            "vodbench.role": "trial",
            "mlflow.parentRunId": self._parent,
        }
        started = content.started_ms(record)
        return self._client.create_run(self._experiment, start_time=started, tags=tags, run_name=name)

    def _log(self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], timestamp_ms: int) -> None:
        from mlflow.entities import Metric, Param

        values = [Metric(name, value, timestamp_ms, 0) for name, value in metrics.items()]
        settings = [Param(name, value) for name, value in params.items()]
        for start in range(0, max(len(settings), 1), _BATCH):
            self._client.log_batch(run_id, values if start == 0 else [], settings[start : start + _BATCH], [])

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, [], [], [RunTag(name, value) for name, value in tags.items()])

    def _set_changed_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        changed = {name: value for name, value in tags.items() if run.data.tags.get(name) != value}
        if changed:
            self._set_tags(str(run.info.run_id), changed)

    def _attach(self, run_id: str, url: str) -> None:
        """Upload a file when it is there; MLflow uploads from disk only."""
        if not exists(url):
            return
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, url.rpartition("/")[2])
            with open(local, "wb") as file:
                file.write(read_bytes(url))
            self._client.log_artifact(run_id, local)


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
