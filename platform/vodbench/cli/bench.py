"""``vodbench bench``: measured speed as ratios inside one run."""

from __future__ import annotations

from importlib import import_module

import typer

app = typer.Typer(
    help="Measure speed: ratios of figures taken in one run, so that they hold on any machine.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog="Example:\n\n`vodbench bench evaluate --json`",
)

for _name in ("evaluate", "runtime"):
    _module = import_module(f"vodbench.bench.{_name}")
    app.command(_name, epilog=_module.EPILOG)(_module.command)
