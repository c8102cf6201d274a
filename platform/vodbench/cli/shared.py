"""What every command shares: the example under ``--help``, the first lines of a run, progress, ``--set``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

import vodbench
from vodbench.errors import UserError
from vodbench.progress import progress_bar
from vodbench.redaction import redact, refuse_settings

if TYPE_CHECKING:
    from vodbench.training.fingerprints import PlannedStage

# Messages go to stderr, so that what a script reads from stdout (tables, --json) stays clean.
console = Console(stderr=True, highlight=False, soft_wrap=True)


def example(*lines: str) -> str:
    """The epilog of a command's ``--help``: copyable commands."""
    return "Example:\n\n" + "\n\n".join(f"`{line}`" for line in lines)


@cache
def revision() -> str:
    """The git revision this code runs from (``+`` marks local changes), or the installed version.

    An image says in ``VODBENCH_REVISION`` what it was built from.
    """
    if told := os.environ.get("VODBENCH_REVISION"):
        return told
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"v{vodbench.__version__}"
    return done.stdout.strip()


def announce(
    what: str,
    *,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    data: str | None = None,
) -> None:
    """The first lines of a run: revision, resolved configuration, seed, device, data fingerprint."""
    facts = [("revision", revision()), ("seed", seed), ("device", device), ("data", data)]
    console.print(f"[bold]{what}[/]  " + "  ".join(f"{name} {value}" for name, value in facts if value is not None))
    if config:
        console.print(redact("  " + "  ".join(f"{name}={json.dumps(value)}" for name, value in config.items())))


def warn_of_beginnings(missing: Iterable[PlannedStage]) -> None:
    """What the settings of the stages that start from fresh weights have to say, each line once."""
    configs = [planned.stage.config for planned in missing if planned.parent is None]
    for line in dict.fromkeys(line for config in configs for line in config.warnings()):
        console.print(f"[yellow]warning:[/] {escape(line)}")


def progress() -> Progress:
    """A bar for anything over two seconds: ``with progress() as bar: task = bar.add_task("sharding", total=n)``."""
    return progress_bar(console)


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """``["T=3", "backbone=resnet50"]`` as a mapping; values are read as YAML. ``UserError`` for a secret."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UserError(f"--set {pair!r} is not NAME=VALUE; for example --set T=3")
        try:
            settings[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {pair!r}: the value is not valid YAML; quote it or use a plain number") from error
    refuse_settings(settings, "--set")
    return settings


def print_json(figures: Mapping[str, Any]) -> None:
    """One JSON object as the last line of stdout."""
    typer.echo(json.dumps(figures))
