"""Whole runs written into MLflow's tables in one transaction, where tracking is a database that this process opens.

Through its client a trial's run takes four requests and, in the process that also runs Tune's loop, 20 ms of Python
under its lock: more than bare Tune takes for a trial that does nothing. Here it is 1 ms. What is written is what MLflow
writes (tests compare the two row by row), by its own table definitions; where these differ from those known here, and
for servers, the client is used.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from sqlalchemy import Connection

# Of the tables of MLflow 3.17. A column that is not among them may be one that has to be filled.
_COLUMNS = {
    "SqlRun": {"run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time",
               "end_time", "deleted_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"},
    "SqlTag": {"run_uuid", "key", "value"},
    "SqlParam": {"run_uuid", "key", "value"},
    "SqlMetric": {"run_uuid", "key", "value", "timestamp", "step", "is_nan"},
    "SqlLatestMetric": {"run_uuid", "key", "value", "timestamp", "step", "is_nan"},
}  # fmt: skip
# MLflow cuts or refuses what is longer, by rules of its own: left to its client.
_NAME_LENGTH, _VALUE_LENGTH = 250, 5000
_BUSY_MS = 20_000  # SQLite, while another process writes; as MLflow waits
_AT_ONCE = 200  # runs a transaction: nobody else waits long


@dataclass(frozen=True)
class WholeRun:
    """A run that has ended, as it will be in MLflow; its metrics carry the time at which it began."""

    name: str
    status: str
    started_ms: int
    ended_ms: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_plain(self) -> bool:
        """Whether MLflow would take it as it is."""
        pairs = [*self.params.items(), *self.tags.items()]
        names = [self.name, *self.metrics, *(name for name, _ in pairs)]
        return all(len(n) <= _NAME_LENGTH for n in names) and all(len(value) <= _VALUE_LENGTH for _, value in pairs)


class Tables:
    """The tables of one tracking database. Every method may raise ``sqlalchemy.exc.SQLAlchemyError``, and then has
    written nothing of its current transaction."""

    def __init__(self, engine: Any, models: Any, experiment_id: str, artifact_location: str) -> None:
        self._engine = engine
        self._models = models
        self._experiment = int(experiment_id)
        self._artifacts = artifact_location

    def add(self, runs: Sequence[WholeRun]) -> None:
        """Runs that are not there yet."""
        for start in range(0, len(runs), _AT_ONCE):
            chosen = runs[start : start + _AT_ONCE]
            metrics = [row for run in chosen for row in _metrics(run)]
            rows = {
                "SqlRun": [self._run(run) for run in chosen],
                "SqlTag": [row for run in chosen for row in _pairs(run, run.tags | {"mlflow.runName": run.name})],
                "SqlParam": [row for run in chosen for row in _pairs(run, run.params)],
                "SqlMetric": metrics,
                "SqlLatestMetric": metrics,
            }
            with self._transaction() as connection:
                for model, values in rows.items():
                    if values:
                        connection.execute(self._table(model).insert(), values)

    def set_tags(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """``tags``: of runs by their ids; other tags stay."""
        table = self._table("SqlTag")
        ids = list(tags)
        for start in range(0, len(ids), _AT_ONCE):
            chosen = ids[start : start + _AT_ONCE]
            names = {name for run in chosen for name in tags[run]}
            with self._transaction() as connection:
                for name in sorted(names):
                    having = [run for run in chosen if name in tags[run]]
                    connection.execute(table.delete().where(table.c.run_uuid.in_(having), table.c.key == name))
                    rows = [{"run_uuid": run, "key": name, "value": tags[run][name]} for run in having]
                    connection.execute(table.insert(), rows)

    def _run(self, run: WholeRun) -> dict[str, Any]:
        from mlflow.utils.uri import append_to_uri_path

        return {
            "run_uuid": run.id,
            "name": run.name,
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "user_id": "unknown",
            "status": run.status,
            "start_time": run.started_ms,
            "end_time": run.ended_ms,
            "source_version": "",
            "lifecycle_stage": "active",
            "artifact_uri": append_to_uri_path(self._artifacts, run.id, "artifacts"),  # type: ignore[no-untyped-call]
            "experiment_id": self._experiment,
        }

    def _table(self, model: str) -> Any:
        return getattr(self._models, model).__table__

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        from sqlalchemy import text

        with self._engine.begin() as connection:
            if self._engine.dialect.name == "sqlite":
                connection.execute(text(f"PRAGMA busy_timeout = {_BUSY_MS}"))
            yield connection


def tables_of(client: MlflowClient, experiment_id: str, artifact_location: str) -> Tables | None:
    """The tables behind ``client``; None where it is a server's, or where MLflow's are not those known here."""
    # MLflow has no public way from a client to its store. A release that has another one here has the slower way.
    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    engine = getattr(store, "engine", None)
    if engine is None:
        return None
    from mlflow.store.tracking.dbmodels import models

    known = all(_columns(models, name) == columns for name, columns in _COLUMNS.items())
    return Tables(engine, models, experiment_id, artifact_location) if known else None


def _columns(models: Any, name: str) -> set[str]:
    model = getattr(models, name, None)
    return set(model.__table__.columns.keys()) if model is not None else set()


def _pairs(run: WholeRun, values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"run_uuid": run.id, "key": name, "value": value} for name, value in values.items()]


def _metrics(run: WholeRun) -> list[dict[str, Any]]:
    common = {"run_uuid": run.id, "timestamp": run.started_ms, "step": 0, "is_nan": False}
    return [{**common, "key": name, "value": value} for name, value in run.metrics.items()]
