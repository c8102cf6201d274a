"""The command line. Each command lives in a module of its own, imported only when it is asked for."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import NoReturn

import typer
from rich.markup import escape

from vodbench.cli.lazy import LazyCommands
from vodbench.cli.shared import console
from vodbench.cli.usage import UsageError, explain
from vodbench.errors import UserError
from vodbench.interruption import from_outside, reason_of
from vodbench.redaction import redact, redact_line

# name -> module; the module holds either `app` (a group) or `command` with its `EPILOG`.
COMMANDS: Mapping[str, str] = {
    "demo": "vodbench.cli.demo",
    "methods": "vodbench.cli.methods",
    "datasets": "vodbench.cli.datasets",
    "studies": "vodbench.cli.studies",
    "study": "vodbench.cli.study",
    "data": "vodbench.cli.data",
    "import": "vodbench.cli.import_weights",
    "train": "vodbench.cli.train",
    "evaluate": "vodbench.cli.evaluate",
    "sweep": "vodbench.cli.sweep",
    "plan": "vodbench.cli.plan",
    "launch": "vodbench.cli.launch",
    "sync": "vodbench.cli.sync",
    "front": "vodbench.cli.front",
    "report": "vodbench.cli.report",
    "recommend": "vodbench.cli.recommend",
    "predict": "vodbench.cli.predict",
    "bench": "vodbench.cli.bench",
    "new": "vodbench.cli.new",
}

CONTINUES = ". Nothing that finished is lost: when this has passed, the same command continues"


class Commands(LazyCommands):
    table = COMMANDS


app = typer.Typer(
    name="vodbench",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="Example:\n\n`vodbench demo`",
)


@app.callback()
def root() -> None:
    """Benchmark and tune video object detectors under one protocol, on one speed-accuracy front."""


def main() -> None:
    """Entry point: a mistake of the user's becomes one line and exit status 2, what came from outside (storage out of
    reach, killed processes) one line and exit status 1; no secret in it, nor in a traceback."""
    try:
        status = app(standalone_mode=False, prog_name="vodbench")
    except UsageError as error:
        _refuse(explain(error))
    except typer.Abort:
        sys.exit(1)
    except UserError as error:
        _refuse(str(error))
    except Exception as error:  # noqa: BLE001 - each kind is told from the others here
        if from_outside(error):
            _end(f"{reason_of(error)}{CONTINUES}", 1)
        console.print(escape(redact(traceback.format_exc())))  # a bug, as Python would print it, but for passwords
        sys.exit(1)
    sys.exit(status or 0)


def _refuse(message: str) -> NoReturn:
    _end(message, 2)


def _end(message: str, status: int) -> NoReturn:
    if message:
        console.print(f"[red]error:[/] {escape(redact_line(message))}")
    sys.exit(status)
