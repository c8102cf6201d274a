"""Reaching an MLflow tracking server, or saying in seconds that it cannot be reached.

No password of an address reaches a message, a log or a record.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from vodbench.errors import UserError
from vodbench.storage import join, make_folder_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0

_SECRET = re.compile(r"((?:pass|pwd|token|secret)[^=&]*=)[^&]*", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def default_uri(local_folder: str) -> str:
    """SQLite inside the study folder: needs no server."""
    return f"sqlite:///{os.path.abspath(local_folder)}/mlflow.db"


def redact(uri: str) -> str:
    """The address without its password."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # whatever it is, its password cannot be told from the rest
        return "***"
    clean = uri if parts.password is None else uri.replace(f":{parts.password}@", ":***@", 1)
    return clean.replace(parts.query, _SECRET.sub(r"\1***", parts.query)) if parts.query else clean


def scrub(text: str, uri: str) -> str:
    """A library's message on one line, without the address's password."""
    parts = urlsplit(uri)
    clean = text.replace(uri, redact(uri))
    for secret in filter(None, (parts.password, *(v for _, v in re.findall(r"([^=&]+)=([^&]*)", parts.query)))):
        clean = clean.replace(secret, "***")
    return " ".join(clean.split())


def connect(uri: str) -> MlflowClient:
    """A client whose server has answered once. ``UserError`` within some 10 s otherwise (plus MLflow's import)."""
    parts, port = _parsed(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("", "file"):
        raise UserError(
            f"tracking address '{redact(uri)}' is a folder, which MLflow no longer writes to; give sqlite:///FILE.db, "
            "a database URL or http(s)://HOST:PORT"
        )
    if scheme not in ("sqlite", "databricks", *_PORTS):
        raise UserError(
            f"tracking address '{redact(uri)}' is not accepted: give sqlite:///FILE.db, postgresql+psycopg2://..., "
            "or http(s)://HOST:PORT"
        )
    if scheme in ("http", "https") and not parts.hostname:
        raise UserError(f"tracking address '{redact(uri)}' names no host; give http(s)://HOST:PORT")
    if parts.hostname and scheme in _PORTS:
        _probe(uri, parts.hostname, port or _PORTS[scheme])
    if scheme == "sqlite":
        _probe_file(uri)
    return _answering_client(uri)


def artifact_location(uri: str) -> str | None:
    """Where a SQLite database keeps artifacts: beside it (MLflow's default is the working directory). Else None."""
    if not uri.startswith("sqlite:"):
        return None
    return join(os.path.dirname(_database_file(uri)), "mlartifacts")


def _parsed(uri: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(uri)
        return parts, parts.port
    except ValueError as error:
        raise UserError(
            f"tracking address '{redact(uri)}' is not accepted ({error}); give for example http://HOST:5000"
        ) from None


def _database_file(uri: str) -> str:
    return os.path.abspath(uri.partition(":///")[2].partition("?")[0])


def _probe_file(uri: str) -> None:
    """Can SQLite read it, or make it? MLflow alone would try for minutes."""
    if not uri.partition(":///")[2]:
        raise UserError(f"tracking address '{uri}' names no file; give sqlite:///FILE.db")
    file = _database_file(uri)
    make_folder_of(file)
    if not os.path.exists(file):
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute("pragma schema_version").fetchone()
    except sqlite3.Error as error:
        raise unreachable(uri, str(error)) from None


def _probe(uri: str, host: str, port: int) -> None:
    """Does anything listen there? MLflow alone would find out in minutes."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise unreachable(uri, str(error)) from None


def _answering_client(uri: str) -> MlflowClient:
    """The client after one request, which is given up after ``ANSWER_SECONDS``."""
    # Bounds each request (default: minutes of retries); MLflow reads these when it sends.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.tracking import MlflowClient

    answers: list[MlflowClient] = []
    problems: list[Exception] = []

    def ask() -> None:
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            answers.append(client)
        except Exception as error:  # noqa: BLE001 - raised below as what the user can act on
            problems.append(error)

    # A new database has its tables made by this first request: seconds of work, not a server that does not answer.
    patience = 120.0 if uri.startswith("sqlite:") else ANSWER_SECONDS
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    if answers:
        return answers[0]
    reason = f"{type(problems[0]).__name__}: {problems[0]}" if problems else f"no answer in {patience:.0f} s"
    raise unreachable(uri, reason)


def unreachable(uri: str, reason: str) -> UserError:
    short = scrub(reason, uri)
    short = short if len(short) <= 200 else short[:199] + "…"
    return UserError(
        f"tracking server '{redact(uri)}' cannot be reached ({short}); start it, correct --tracking, or leave it out "
        "to record in a local SQLite file"
    )
