"""``vodbench bench``: measured speed as ratios inside one run."""

from __future__ import annotations

import typer

from vodbench.cli.lazy import LazyCommands
from vodbench.registry import benches


class Benches(LazyCommands):
    table = {  # noqa: RUF012 - a ClassVar of the base class
        "evaluate": "vodbench.bench.evaluate",
        "runtime": "vodbench.bench.runtime",
        "sweep": "vodbench.bench.sweep",
        **benches(),
    }


app = typer.Typer(
    cls=Benches,
    help="Measure speed: ratios of figures taken in one run, so that they hold on any machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    epilog="Example:\n\n`vodbench bench evaluate --json`",
)


@app.callback()
def root() -> None:
    """Measure speed: ratios of figures taken in one run, so that they hold on any machine."""
