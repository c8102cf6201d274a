"""A sweep's trials as runs in MLflow: each exactly once, whatever interrupts their delivery.

A trial's run is found by tags that it is created with (sweep and trial fingerprint); a crash between any two requests
leaves a run that the next delivery completes. A tag written after everything else, with the run's status, says that
nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vodbench.fingerprint import fingerprint
from vodbench.front.pareto import pareto_front
from vodbench.records import TrialRecord
from vodbench.storage import exists, join
from vodbench.studies.constraints import violated
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking import content
from vodbench.tracking.whole_runs import Tables, WholeRun
from vodbench.tracking.writing import attach, log_all

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PAGE = 1000
_MARKS = ("front", "feasible")  # follow from all trials together
_STATUS = {"complete": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass(frozen=True)
class Place:
    """Where the runs of a sweep's trials belong."""

    experiment: str
    parent: str  # the sweep's run
    sweep: str  # its identity


@dataclass
class _Run:
    """What is known of a run in MLflow."""

    id: str
    status: str
    tags: dict[str, str]


class TrialRuns:
    """The trial runs of one sweep. Every method may raise what MLflow or its database raises, and can be repeated."""

    def __init__(self, client: MlflowClient, tables: Tables | None, folder: StudyFolder, place: Place) -> None:
        self._client = client
        self._tables = tables
        self._folder = folder
        self._study = folder.study()
        self._place = place
        self._found: dict[str, _Run] | None = None
        self._digests: dict[str, tuple[TrialRecord, str]] = {}
        self.there()

    def there(self) -> Mapping[str, _Run]:
        """The runs by trial fingerprint; asked for once, and again after a failure: what it left is not known."""
        if self._found is None:
            self._found = dict(self._search())
        return self._found

    def deliver(self, records: Iterable[TrialRecord]) -> int:
        """Make or complete the trials' runs; how many were not there, or not whole."""
        known = dict(self.there())
        missing = [
            (record, self._whole_run(record))
            for record in records
            if not self._is_whole(known.get(record.fingerprint), record)
        ]
        self._found = None
        added: dict[str, _Run] = {}
        if self._tables is not None:
            new = [(record, run) for record, run in missing if record.fingerprint not in known and run.is_plain]
            added = self._add(self._tables, new)
        for record, run in missing:
            if record.fingerprint not in added:
                known[record.fingerprint] = self._complete(record, run, known.get(record.fingerprint))
        self._found = known | added
        return len(missing)

    def mark(self, records: Sequence[TrialRecord]) -> None:
        """Bring the tags of front and constraints up to date, where they are not."""
        changed: dict[str, dict[str, str]] = {}
        known = self.there()
        constraints = self._study.search.constraints
        for record, on_front in zip(records, pareto_front(records), strict=True):
            marks = {"front": "yes" if on_front else "no"}
            if constraints and record.status == "complete":
                marks["feasible"] = "no" if violated(record, constraints) else "yes"
            run = known[record.fingerprint]
            if new := {name: value for name, value in marks.items() if run.tags.get(name) != value}:
                changed[run.id] = new
                run.tags |= new
        self._found = None
        self._set_tags(changed)
        self._found = dict(known)

    def _search(self) -> Iterator[tuple[str, _Run]]:
        mine = f"tags.`{content.SWEEP_TAG}` = '{self._place.sweep}' and tags.`vodbench.role` = 'trial'"
        page = None
        while True:
            runs = self._client.search_runs([self._place.experiment], mine, max_results=_PAGE, page_token=page)
            for run in runs:
                yield run.data.tags[content.TRIAL_TAG], _Run(run.info.run_id, run.info.status, dict(run.data.tags))
            page = runs.token
            if not page:
                return

    def _whole_run(self, record: TrialRecord) -> WholeRun:
        tags = {
            content.SWEEP_TAG: self._place.sweep,
            content.TRIAL_TAG: record.fingerprint,
            "vodbench.role": "trial",
            "mlflow.parentRunId": self._place.parent,
            **content.tags(record),
            content.DELIVERED_TAG: self._digest(record),
        }
        return WholeRun(
            name=content.run_name(record),
            status=_STATUS[record.status],
            started_ms=content.started_ms(record),
            ended_ms=content.ended_ms(record),
            params=content.params(record, self._study),
            metrics=content.metrics(record),
            tags=tags,
        )

    def _is_whole(self, there: _Run | None, record: TrialRecord) -> bool:
        if there is None or there.status != _STATUS[record.status]:
            return False
        return there.tags.get(content.DELIVERED_TAG) == self._digest(record)

    def _digest(self, record: TrialRecord) -> str:
        """Of what the record says; kept, since each is asked for when its trial ends, and when the sweep does."""
        known = self._digests.get(record.fingerprint)
        if known is None or known[0] != record:
            known = self._digests[record.fingerprint] = record, fingerprint(record.to_json())
        return known[1]

    def _files(self, record: TrialRecord) -> list[str]:
        named = [] if record.detections is None else [join(self._folder.url, record.detections)]
        return [url for url in named if exists(url)]

    def _add(self, tables: Tables, missing: Sequence[tuple[TrialRecord, WholeRun]]) -> dict[str, _Run]:
        """New runs, into the database's tables; those with files are marked as whole when these are there."""
        files = {run.id: self._files(record) for record, run in missing}
        tables.add([_unmarked(run) if files[run.id] else run for _, run in missing])
        for run_id, urls in files.items():
            for url in urls:
                attach(self._client, run_id, url)
        with_files = [run for _, run in missing if files[run.id]]
        tables.set_tags({run.id: {content.DELIVERED_TAG: run.tags[content.DELIVERED_TAG]} for run in with_files})
        return {record.fingerprint: _Run(run.id, run.status, dict(run.tags)) for record, run in missing}

    def _complete(self, record: TrialRecord, run: WholeRun, there: _Run | None) -> _Run:
        """A run that is not there, or not whole, through MLflow's client."""
        if there is None:
            made = self._client.create_run(
                self._place.experiment, start_time=run.started_ms, tags=_unmarked(run).tags, run_name=run.name
            )
            run_id, tags = str(made.info.run_id), {content.DELIVERED_TAG: run.tags[content.DELIVERED_TAG]}
        else:
            run_id, tags = there.id, dict(run.tags)
            if "reason" in there.tags and "reason" not in run.tags:  # it failed once, and was run again
                self._client.delete_tag(run_id, "reason")
        for url in self._files(record):
            attach(self._client, run_id, url)
        log_all(self._client, run_id, params=run.params, metrics=run.metrics, timestamp_ms=run.started_ms, tags=tags)
        self._client.set_terminated(run_id, run.status, end_time=run.ended_ms)
        earlier = {} if there is None else {name: there.tags[name] for name in _MARKS if name in there.tags}
        return _Run(run_id, run.status, earlier | run.tags)

    def _set_tags(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        if self._tables is not None:
            self._tables.set_tags(tags)
            return
        for run_id, values in tags.items():
            log_all(self._client, run_id, params={}, metrics={}, timestamp_ms=0, tags=values)


def _unmarked(run: WholeRun) -> WholeRun:
    """Without the tag that says that nothing is missing."""
    return replace(run, tags={name: value for name, value in run.tags.items() if name != content.DELIVERED_TAG})
