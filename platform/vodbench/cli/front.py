"""``vodbench front``: the front of a sweep, printed and drawn."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from vodbench.cli.shared import console, example, print_json
from vodbench.cli.sweep import trial_table
from vodbench.front.files import draw_front
from vodbench.front.pareto import pareto_front
from vodbench.front.points import front_json, load_trials, measured_points
from vodbench.storage import join
from vodbench.studies.loading import load_study
from vodbench.studies.published import published_points

EPILOG = example("vodbench front runs/demo")


def command(
    out: Annotated[str, typer.Argument(help="The --out folder of a sweep.")],
    json: Annotated[bool, typer.Option("--json", help="Print the front as one JSON object.")] = False,
) -> None:
    """Print the front of a sweep and draw it: front.html (interactive), front.png and front.json in its folder."""
    files = draw_front(out)
    records = load_trials(out)
    if json:
        print_json(front_json(measured_points(records)))
        return
    published = published_points(load_study(join(out, "study.yaml")))
    Console().print(trial_table(records, pareto_front(records), published))
    console.print("drawn: " + "  ".join(files))
