"""What a command answers, and what a refusal looks like: one line, exit status 2, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """Of one ``vodbench``: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]  # the words after "vodbench" -> what came of them


def refused(outcome: Outcome, *words: str) -> None:
    """All of ``words`` are in the one line that says what is wrong."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert outcome.status == 2, outcome.err
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0], lines[0]


def figures(outcome: Outcome) -> dict[str, Any]:
    """The JSON object that a command with ``--json`` prints last."""
    assert outcome.status == 0, outcome.err or outcome.out
    found: dict[str, Any] = json.loads(outcome.out.splitlines()[-1])
    return found
