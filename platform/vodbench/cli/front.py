"""``vodbench front``: the front of a sweep, or of several together, printed and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vodbench.cli.shared import console, example, print_json
from vodbench.cli.sweep import trial_table
from vodbench.errors import UserError
from vodbench.front.files import draw_front
from vodbench.front.pareto import pareto_front
from vodbench.front.points import front_json, load_trials, measured_points
from vodbench.storage import join
from vodbench.studies.loading import load_study
from vodbench.studies.published import published_points
from vodbench.trials.folders import RUNS, study_folders

if TYPE_CHECKING:
    from rich.table import Table

    from vodbench.front.joint import Group

EPILOG = example(
    "vodbench front runs/demo",
    "vodbench front runs/my-budget --feasible",
    "vodbench front --studies 'rdn-*' 'thp-*' --out runs/joint",
)
JOINT = join(RUNS, "joint")


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Folders of sweeps, or patterns of them.")] = None,
    studies: Annotated[list[str] | None, typer.Option(help="The same: all methods of them on one plot.")] = None,
    out: Annotated[str | None, typer.Option(help=f"Folder of a joint front's files; {JOINT} when left out.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Draw studies that do not compare too, marked.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Published points beside a joint front.")] = False,
    feasible: Annotated[
        bool, typer.Option("--feasible", help="The front of the trials that keep to the study's constraints.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the front as one JSON object.")] = False,
) -> None:
    """Print the front of a sweep and draw it: front.html (interactive), front.png and front.json in its folder.

    Several sweeps are drawn on one plot: a colour a method, a line where one knob alone changes, the mean over seeds.
    """
    folders = study_folders([*(studies or []), *(runs or [])])
    if not folders:
        raise UserError("give the --out folder of a 'vodbench sweep', or several with --studies 'rdn-*' 'thp-*'")
    if len(folders) == 1 and not studies:
        if out is not None or anyway or published:
            raise UserError("--out, --anyway and --published belong to --studies; one sweep is drawn in its folder")
        return _single(folders[0], feasible, json)
    if feasible:
        raise UserError("--feasible belongs to one sweep, whose study has the constraints; give its folder alone")
    return _joint(folders, JOINT if out is None else out, anyway=anyway, published=published, json=json)


def _single(out: str, feasible: bool, json: bool) -> None:
    records = load_trials(out)
    study = load_study(join(out, "study.yaml"))
    constraints = study.search.constraints
    if feasible and not constraints:
        raise UserError(
            f"--feasible: study '{study.name}' has no constraints; sweep it with, for example, "
            "--set 'search.constraints=[runtime_ms <= 30]'"
        )
    files = draw_front(out, feasible_only=feasible)
    if json:
        print_json(front_json(measured_points(records, constraints, feasible_only=feasible)))
        return
    marks = pareto_front(records, constraints if feasible else ())
    Console().print(trial_table(records, marks, published_points(study), constraints))
    console.print("drawn: " + "  ".join(files))


def _joint(folders: Sequence[str], out: str, *, anyway: bool, published: bool, json: bool) -> None:
    from vodbench.front.joint import joint_front, joint_json
    from vodbench.front.joint_files import draw_joint
    from vodbench.trials import stored_trials

    front = joint_front(stored_trials(folders), anyway=anyway, published=published)
    files = draw_joint(front, out)
    if json:
        print_json(joint_json(front))
        return
    for group in front.groups:
        Console().print(_table(group))
    if front.warning:
        console.print(f"[yellow]warning:[/] {escape(front.warning)}; each kind has a front of its own")
    console.print("drawn: " + "  ".join(files))


def _table(group: Group) -> Table:
    """The configurations of comparable trials by rising runtime."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=escape(group.conditions.words()), title_justify="left")
    for name in ("", "configuration", "mAP", "95%", "ms a frame", "95%", "seeds"):
        right = name in ("mAP", "ms a frame", "seeds")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "95%", overflow="fold")
    for point in group.points:
        c = point.configuration
        table.add_row(
            "front" if point.on_front else "",
            escape(point.label),
            f"{c.map:.3f}",
            escape(f"[{c.low:.3f}, {c.high:.3f}]"),
            f"{c.mean_ms:.1f}{'*' if c.contended else ''}",
            escape(f"[{c.low_ms:.1f}, {c.high_ms:.1f}]"),
            str(len(c.seeds)),
            style=None if point.on_front else "dim",
        )
    if any(point.configuration.contended for point in group.points):
        table.caption = "* the device was busy while this was measured"
    return table
