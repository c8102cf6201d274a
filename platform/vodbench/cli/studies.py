"""``vodbench studies``: the shipped studies with their titles."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vodbench.cli.shared import example
from vodbench.studies import list_studies

EPILOG = example("vodbench studies", "vodbench sweep demo --out runs/demo")


def command() -> None:
    """List the studies that ship with vodbench."""
    rows = Table(box=None, pad_edge=False)
    rows.add_column("study", style="bold")
    rows.add_column("what it does")
    for name, title in list_studies().items():
        rows.add_row(name, title)
    Console().print(rows)
