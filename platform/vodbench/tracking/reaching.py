"""Servers and databases that are asked in bounded time, and what is said of those that do not answer.

No password of an address reaches a message, a log or a record: see ``vodbench.redaction``.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from vodbench.errors import OneLineError, OutOfReachError, UserError
from vodbench.interruption import from_outside
from vodbench.redaction import HIDDEN, redact, redact_line
from vodbench.storage import make_folder_of
from vodbench.tracking.postgresql import give_up_on_silence

T = TypeVar("T")

CONNECT_SECONDS = 3.0

TRACKING, OPTUNA = "tracking server", "Optuna storage"  # what an address is for, in messages
_ADVICE = {
    TRACKING: "correct --tracking, or leave it out to record in a local SQLite file",
    OPTUNA: "correct --optuna-storage, or leave it out",
}
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def parsed(uri: str, what: str = TRACKING) -> tuple[SplitResult, int | None]:
    """The parts of an address and its port; ``UserError`` for what is no address."""
    try:
        parts = urlsplit(uri)
        return parts, parts.port
    except ValueError as error:
        shown = redact(uri)
        # A password with a slash in it is taken for the port, and the error says what the port should have been.
        reason = "a password with a slash?" if HIDDEN in shown else str(error)
        raise UserError(f"{what} '{shown}' is not accepted ({reason}); give for example http://HOST:5000") from None


def database_file(uri: str) -> str:
    """The file of a ``sqlite:///`` address."""
    return os.path.abspath(uri.partition(":///")[2].partition("?")[0])


def probe(uri: str, what: str = TRACKING) -> None:
    """See that something listens at that address, or that the file can be a SQLite database: see ``unreachable``.

    MLflow and Optuna alone would find out in minutes.
    """
    parts, port = parsed(uri, what)
    scheme = parts.scheme.partition("+")[0]
    if parts.hostname and scheme in PORTS:
        _probe_port(uri, parts.hostname, port or PORTS[scheme], what)
    if scheme == "postgresql":
        give_up_on_silence()
    if scheme == "sqlite":
        _probe_file(uri, what)


def in_time(ask: Callable[[], T], uri: str, *, patience: float, what: str = TRACKING) -> T:
    """What ``ask`` returns; where it raises, or takes longer than so many seconds, what ``unreachable`` says."""
    answers: list[T] = []
    problems: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - raised below as what the user can act on
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience)
    if answers:
        return answers[0]
    if not problems:
        raise unreachable(uri, TimeoutError(f"no answer in {patience:.0f} s"), what)
    raise unreachable(uri, problems[0], what)


def unreachable(uri: str, error: Exception, what: str = TRACKING) -> OneLineError:
    """Why it cannot be used: an ``OutOfReachError`` where it may answer the next time, else a ``UserError``."""
    if refused := login_refused(error, uri):
        return refused
    short = redact_line(problem_of(error, uri), uri)
    short = short if len(short) <= 200 else short[:199] + "…"
    kind = OutOfReachError if from_outside(error) or _no_connection(error) else UserError
    return kind(f"{what} '{redact(uri)}' cannot be reached ({short}); start it, {_ADVICE[what]}")


def problem_of(error: Exception, uri: str) -> str:
    """What a library raised, on a line without secrets; a ``OneLineError`` as it is.

    Where the system refused the connection, libraries tell how often they tried first: only the refusal is said.
    """
    if isinstance(error, OneLineError):
        return str(error)
    no_connection = _no_connection(error)
    return redact_line(str(no_connection) if no_connection else f"{type(error).__name__}: {error}", uri)


def _no_connection(error: BaseException | None) -> BaseException | None:
    """What the system said; libraries do not always name it as their cause."""
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError)) and str(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def login_refused(error: Exception, uri: str) -> UserError | None:
    """What an MLflow server with authentication says to the wrong user, as what to do about it."""
    code = getattr(error, "error_code", None)
    if code == "UNAUTHENTICATED":
        return UserError(
            f"tracking server '{redact(uri)}' refuses the login (401); give the right MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment, or MLFLOW_TRACKING_TOKEN"
        )
    if code == "PERMISSION_DENIED":
        return UserError(
            f"tracking server '{redact(uri)}' does not allow this user to write there (403); ask its administrator for "
            "the permission EDIT, or log in as another"
        )
    return None


def _probe_file(uri: str, what: str) -> None:
    """Can SQLite read it, or make it?"""
    if not uri.partition(":///")[2]:
        raise UserError(f"{what} '{uri}' names no file; give sqlite:///FILE.db")
    file = database_file(uri)
    make_folder_of(file)
    if not os.path.exists(file):
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute("pragma schema_version").fetchone()
    except sqlite3.Error as error:
        raise unreachable(uri, error, what) from None


def _probe_port(uri: str, host: str, port: int, what: str) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise unreachable(uri, error, what) from None
