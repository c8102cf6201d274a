"""The folder of one ``vodbench train``: ``run.json`` says what it holds, ``checkpoints/`` holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vodbench.errors import UserError
from vodbench.storage import exists, join, read_text, write_text

SCHEMA = 1
FILE_NAME = "run.json"
IDENTITY = ("method", "seed", "split", "data_fingerprint", "config")


def check_run_folder(out: str, run: Mapping[str, Any]) -> None:
    """``UserError`` when ``out`` belongs to a study or to a training that differs from ``run``. Writes nothing."""
    if exists(join(out, "study.yaml")):
        raise UserError(f"output folder '{out}' belongs to a study (study.yaml); choose another --out")
    url = join(out, FILE_NAME)
    if not exists(url):
        return
    try:
        there = json.loads(read_text(url))
        differences = [_difference(name, there[name], run[name]) for name in IDENTITY if there[name] != run[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{url}' is damaged ({error!r}); delete it or choose another --out") from error
    if differences:
        raise UserError(
            f"output folder '{out}' belongs to another run: {'; '.join(differences)}; choose another --out, or repeat "
            "that run's settings to continue it"
        )


def write_run_file(out: str, run: Mapping[str, Any]) -> None:
    """Mark ``out`` as the folder of ``run``; an earlier mark (of the same run, as checked) is kept."""
    url = join(out, FILE_NAME)
    if not exists(url):
        write_text(url, json.dumps({"schema": SCHEMA, **run}, indent=1, sort_keys=True))


def _difference(name: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        names = sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key))
        return ", ".join(_difference(key, there.get(key), here.get(key)) for key in names)
    return f"it has {name} = {json.dumps(there)}, here {json.dumps(here)}"
