"""An MLflow tracking server or database, reached in seconds or not at all."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from vodbench.errors import UserError
from vodbench.redaction import redact
from vodbench.storage import join
from vodbench.tracking.reaching import PORTS, database_file, in_time, parsed, probe

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ANSWER_SECONDS = 10.0
# A new database has its tables made by the first request: seconds of work, not a server that does not answer.
TABLES_SECONDS = 120.0


def default_uri(local_folder: str) -> str:
    """SQLite inside the study folder: needs no server."""
    return f"sqlite:///{os.path.abspath(local_folder)}/mlflow.db"


def connect(uri: str) -> MlflowClient:
    """A client whose server has answered once. ``UserError`` for what is no address of one; ``OutOfReachError`` within
    some 10 s (plus MLflow's import) when it does not answer."""
    parts, _ = parsed(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("", "file"):
        raise UserError(
            f"tracking address '{redact(uri)}' is a folder, which MLflow no longer writes to; give sqlite:///FILE.db, "
            "a database URL or http(s)://HOST:PORT"
        )
    if scheme not in ("sqlite", "databricks", *PORTS):
        raise UserError(
            f"tracking address '{redact(uri)}' is not accepted: give sqlite:///FILE.db, postgresql+psycopg2://..., "
            "or http(s)://HOST:PORT"
        )
    if scheme in ("http", "https") and not parts.hostname:
        raise UserError(f"tracking address '{redact(uri)}' names no host; give http(s)://HOST:PORT")
    probe(uri)
    return _answering_client(uri)


def artifact_location(uri: str) -> str | None:
    """Where a SQLite database keeps artifacts: beside it (MLflow's default is the working directory). Else None."""
    if not uri.startswith("sqlite:"):
        return None
    return join(os.path.dirname(database_file(uri)), "mlartifacts")


def _answering_client(uri: str) -> MlflowClient:
    """The client after one request, which is given up in time."""
    # Bounds each request (default: minutes of retries); MLflow reads these when it sends.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # It prints a run's address when the run ends: into the tables of stdout, and with the password of the address.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow.tracking import MlflowClient

    # What a database raises it prints as well, with two tracebacks.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

    def ask() -> MlflowClient:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client

    return in_time(ask, uri, patience=ANSWER_SECONDS if uri.startswith("http") else TABLES_SECONDS)
