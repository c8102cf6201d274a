"""``vodbench datasets``: which kinds of data can be read."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vodbench.cli.shared import example
from vodbench.registry import dataset_spec, table

EPILOG = example("vodbench datasets")


def command() -> None:
    """List the kinds of data that can be read."""
    rows = Table("data set", "what it is", box=None)
    for name in table("datasets"):
        rows.add_row(name, dataset_spec(name).summary)
    Console().print(rows)
