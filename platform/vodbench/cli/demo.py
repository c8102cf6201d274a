"""``vodbench demo``: the whole way on generated video, from nothing to a front and a report."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vodbench.cli import sweep
from vodbench.cli.report import command as write_report
from vodbench.cli.shared import console, example
from vodbench.storage import join, make_folder

EPILOG = example("vodbench demo", "vodbench demo --out runs/demo-2 --seed 1")


def command(
    out: Annotated[str, typer.Option(help="Folder for the video, shards, sweep and report.")] = "runs/demo",
    snippets: Annotated[int | None, typer.Option(help="Training snippets to generate; else 120.", min=1)] = None,
    val_snippets: Annotated[int | None, typer.Option(help="Validation snippets; else 24.", min=1)] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of every snippet; else 12.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the video and of the trainings.", min=0)] = 0,
) -> None:
    """Generate video, shard it, train three methods, sweep their knobs, draw the front, write the report.

    The study is ``demo`` (see ``vodbench studies``). The same command continues an interrupted demo.
    """
    started = time.monotonic()
    make_folder(out)
    asked = {"snippets": snippets, "val_snippets": val_snippets, "frames": frames, "seed": seed}
    overrides = {f"data.generate.{name}": value for name, value in asked.items() if value is not None}
    study = sweep.Asked(study="demo", overrides={**overrides, "seeds": [seed]}, out=join(out, "sweep"), video=out)
    folder = sweep.run(study).folder
    write_report([folder])
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    Console().print(f"report: {escape(join(folder, 'report.html'))}", soft_wrap=True)
