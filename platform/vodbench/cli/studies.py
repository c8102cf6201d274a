"""``vodbench studies``: the shipped studies with their titles."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vodbench.cli.shared import example
from vodbench.studies import list_studies, study_scales
from vodbench.studies.loading import OWN_SCALE

EPILOG = example("vodbench studies", "vodbench sweep rdn-table4 --scale small --out runs/rdn-table4-small")


def command() -> None:
    """List the studies that ship with vodbench."""
    rows = Table(box=None, pad_edge=False)
    rows.add_column("study", style="bold")
    rows.add_column("scales")
    rows.add_column("what it does")
    for name, title in list_studies().items():
        scales = study_scales(name)
        rows.add_row(name, ", ".join((OWN_SCALE, *scales)) if scales else "", title)
    Console().print(rows)
