"""``vodbench demo``: the whole way on generated video, from nothing to a front and a report."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vodbench.cli.data import generate, shard, verify
from vodbench.cli.report import command as write_report
from vodbench.cli.shared import console, example
from vodbench.cli.sweep import command as run_sweep
from vodbench.storage import join, make_folder

# Few enough in 12 frames that bursts have clear neighbours to borrow from.
_BURSTS = "[1, 2]"

EPILOG = example("vodbench demo", "vodbench demo --out runs/demo-2 --seed 1")


def command(
    out: Annotated[str, typer.Option(help="Folder for the video, shards, sweep and report.")] = "runs/demo",
    snippets: Annotated[int, typer.Option(help="Training snippets to generate.", min=1)] = 120,
    val_snippets: Annotated[int, typer.Option(help="Validation snippets to generate.", min=1)] = 24,
    frames: Annotated[int, typer.Option(help="Frames of every snippet.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the video and of the trainings.", min=0)] = 0,
) -> None:
    """Generate video, shard it, train three methods, sweep their knobs, draw the front, write the report.

    The study is ``demo`` (see ``vodbench studies``). The same command continues an interrupted demo.
    """
    started = time.monotonic()
    make_folder(out)
    video, shards, sweep = (join(out, name) for name in ("video", "shards", "sweep"))
    generate(
        video, snippets=snippets, val_snippets=val_snippets, frames=frames, seed=seed, settings=[f"bursts={_BURSTS}"]
    )
    shard(video, shards, shard_mib=8)
    verify(shards)
    run_sweep("demo", data=shards, out=sweep, set_=[f"seeds=[{seed}]"])
    write_report(sweep)
    console.print(f"the demo took {time.monotonic() - started:.0f} s")
    Console().print(f"report: {escape(join(sweep, 'report.html'))}", soft_wrap=True)
