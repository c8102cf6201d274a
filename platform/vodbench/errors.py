"""Errors a user can act on, and the wording they share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class OneLineError(Exception):
    """Its message is one line that says all: what was met, what to do. Printed without a traceback."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_BREAK.sub(" ", message.strip()))  # what it quotes of a library's error may have several


class UserError(OneLineError, ValueError):
    """Something the user gave cannot be used, such as a damaged file.

    The message: what was given, what is accepted, what to do. The command line exits with status 2. Raise it before any
    work starts and before anything is written.
    """


class InterruptedWorkError(RuntimeError):
    """Work was ended by what happened around it, such as processes that were killed: it may be tried again as it is."""


class OutOfReachError(OneLineError, InterruptedWorkError):
    """A store did not answer, or not as it should: a wrong address, or an outage that may pass.

    It says nothing of what is stored, so it is no ``UserError`` and no ``ValueError``: who makes damaged files again
    must not take it for damage. The command line exits with status 1. A type, because what an error came from is lost
    on its way from one process to another.
    """


_BREAK = re.compile(r"\s*\n\s*")


def nearest(given: str, accepted: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the closest accepted one, then all of them."""
    names = sorted(accepted)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}accepted: {', '.join(names) or 'none'}"


def unknown(kind: str, given: str, accepted: Iterable[str]) -> UserError:
    """``UserError`` for a name that no table holds, e.g. ``unknown("method", "rnd", METHODS)``."""
    return UserError(f"unknown {kind} '{given}': {nearest(given, accepted)}")
