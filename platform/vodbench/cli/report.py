"""``vodbench report``: one self-contained HTML page about a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from vodbench.cli.shared import console, example
from vodbench.storage import join, make_folder_of, write_text

EPILOG = example("vodbench report runs/demo", "vodbench report runs/demo --file front-of-this-week.html")


def command(
    out: Annotated[str, typer.Argument(help="The --out folder of a sweep.")],
    file: Annotated[str | None, typer.Option(help="Where to write the page; OUT/report.html by default.")] = None,
) -> None:
    """Write the report of a sweep: front, tables, figures, and frames of two methods side by side."""
    from vodbench.report.page import render_report

    target = join(out, "report.html") if file is None else file
    with console.status("rendering the report"):
        page = render_report(out)
    make_folder_of(target)
    write_text(target, page)
    typer.echo(target)
