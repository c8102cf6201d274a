"""``vodbench sync``: deliver a study folder's results to MLflow, once more or somewhere else."""

from __future__ import annotations

from typing import Annotated

import typer

from vodbench.cli.shared import announce, console, example, print_json
from vodbench.errors import UserError

EPILOG = example("vodbench sync runs/demo --tracking http://mlflow:5000")


def command(
    out: Annotated[str, typer.Argument(help="Study folder that 'vodbench sweep' wrote.")],
    tracking: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the study folder's SQLite file when left out.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Bring MLflow up to date with the results on disk. Repeating it changes nothing."""
    from vodbench.sweeps.folder import StudyFolder
    from vodbench.tracking.recorder import sync
    from vodbench.tracking.server import default_uri, redact

    folder = StudyFolder(out)
    study = folder.study()
    path = folder.local_path
    if tracking is None and path is None:
        raise UserError(f"'{out}' is not on this machine, so it holds no MLflow database; give --tracking")
    folder.identity()
    uri = default_uri(str(path)) if tracking is None else tracking
    announce(f"sync {study.name}", config={"out": out, "tracking": redact(uri)})
    records = folder.records()
    with console.status(f"delivering {len(records)} trials"):
        delivered = sync(folder, records.values(), uri)
    console.print(f"{delivered} of {len(records)} trials were missing or incomplete in MLflow, now all are there")
    if json:
        print_json({"study": study.name, "trials": len(records), "delivered": delivered})
