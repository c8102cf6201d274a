"""``vodbench front``: the front of a sweep, printed and drawn."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from vodbench.cli.shared import console, example, print_json
from vodbench.cli.sweep import trial_table
from vodbench.errors import UserError
from vodbench.front.files import draw_front
from vodbench.front.pareto import pareto_front
from vodbench.front.points import front_json, load_trials, measured_points
from vodbench.storage import join
from vodbench.studies.loading import load_study
from vodbench.studies.published import published_points

EPILOG = example("vodbench front runs/demo", "vodbench front runs/my-budget --feasible")


def command(
    out: Annotated[str, typer.Argument(help="The --out folder of a sweep.")],
    feasible: Annotated[
        bool, typer.Option("--feasible", help="The front of the trials that keep to the study's constraints.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the front as one JSON object.")] = False,
) -> None:
    """Print the front of a sweep and draw it: front.html (interactive), front.png and front.json in its folder."""
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
