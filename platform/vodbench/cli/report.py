"""``vodbench report``: one self-contained HTML page about a sweep, or about several together."""

from __future__ import annotations

from typing import Annotated

import typer

from vodbench.cli.shared import console, example
from vodbench.errors import UserError
from vodbench.storage import join, make_folder_of, write_text
from vodbench.trials.folders import RUNS, study_folders

EPILOG = example("vodbench report runs/demo", "vodbench report 'rdn-*' 'hvrnet-*' --file front-of-this-week.html")
JOINT = join(RUNS, "joint", "report.html")


def command(
    runs: Annotated[list[str], typer.Argument(help="Folders of sweeps, or patterns of them.")],
    file: Annotated[
        str | None, typer.Option(help=f"Where to write the page; RUN/report.html, or {JOINT} for several.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Show studies that do not compare too, apart.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Published points beside a joint front.")] = False,
) -> None:
    """Write the report of a sweep: front, tables, figures, and frames of two methods side by side.

    Of several sweeps: their joint front, and the paired differences between their methods.
    """
    folders = study_folders(runs)
    if len(folders) == 1 and (anyway or published):
        raise UserError("--anyway and --published belong to a report of several sweeps; give more than one")
    # plotly takes a second to import: not for folders that are refused.
    from vodbench.report.joint import render_joint_report
    from vodbench.report.page import render_report

    single = len(folders) == 1
    target = file if file is not None else join(folders[0], "report.html") if single else JOINT
    with console.status("rendering the report"):
        page = render_report(folders[0]) if single else render_joint_report(folders, anyway=anyway, published=published)
    make_folder_of(target)
    write_text(target, page)
    typer.echo(target)
