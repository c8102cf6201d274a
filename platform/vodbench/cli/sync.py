"""``vodbench sync``: deliver a study folder's results to MLflow, once more or somewhere else."""

from __future__ import annotations

from typing import Annotated

import typer

from vodbench.cli.shared import announce, console, example, print_json
from vodbench.errors import UserError

EPILOG = example(
    "vodbench sync runs/demo --tracking http://mlflow:5000",
    "vodbench sync runs/demo --optuna-storage postgresql+psycopg2://ann@db/optuna",
)


def command(
    out: Annotated[str, typer.Argument(help="Study folder that 'vodbench sweep' wrote.")],
    tracking: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; the study folder's SQLite file when left out.")
    ] = None,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Deliver to this database for Optuna's dashboard, not to MLflow.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Bring MLflow, or Optuna's storage, up to date with the results on disk. Repeating it changes nothing."""
    from vodbench.sweeps.folder import StudyFolder
    from vodbench.tracking.recorder import MLFLOW, OPTUNA_STUDY, sync
    from vodbench.tracking.server import default_uri

    if tracking is not None and optuna_storage is not None:
        raise UserError("--tracking and --optuna-storage are given; deliver to one after the other")
    folder = StudyFolder(out)
    study = folder.study()
    path = folder.local_path
    if tracking is None and optuna_storage is None and path is None:
        raise UserError(f"'{out}' is not on this machine, so it holds no MLflow database; give --tracking")
    folder.identity()
    kind = MLFLOW if optuna_storage is None else OPTUNA_STUDY
    uri = optuna_storage or (default_uri(str(path)) if tracking is None else tracking)
    announce(f"sync {study.name}", config={"out": out, kind.option.strip("-"): uri})
    records = folder.records()
    with console.status(f"delivering {len(records)} trials"):
        delivered = sync(folder, records.values(), uri, kind)
    console.print(f"{delivered} of {len(records)} trials were missing or incomplete in {kind.name}, now all are there")
    if json:
        print_json({"study": study.name, "trials": len(records), "delivered": delivered})
