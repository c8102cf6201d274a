"""``vodbench train``: the weights of one method with one configuration."""

from __future__ import annotations

import json as json_format
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from vodbench.cli.shared import (
    announce,
    console,
    example,
    parse_settings,
    print_json,
    progress,
    revision,
    warn_of_beginnings,
)
from vodbench.data_source import DataSource
from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig
from vodbench.redaction import redact_line
from vodbench.registry import method_spec

if TYPE_CHECKING:
    from vodbench.training.driver import OnProgress
    from vodbench.training.fingerprints import PlannedStage

EPILOG = example(
    "vodbench train faster-rcnn --data data/generated --preset tiny --out runs/single",
    "vodbench train rdn --data s3://bucket/ILSVRC2015 --workers 4 --device cuda --out s3://bucket/runs/rdn",
)

USE_GPU: Mapping[str, bool | None] = {"auto": None, "cpu": False, "cuda": True}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asked for, checked as far as that goes without opening the data."""

    method: str
    config: MethodConfig
    source: DataSource
    split: str
    out: str
    seed: int
    workers: int
    threads: int
    device: str
    ray: str | None


def command(
    method: Annotated[str, typer.Argument(help="A method (see 'vodbench methods').")],
    data: Annotated[str, typer.Option(help="Data root, local or URL: an ILSVRC tree or shards.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the run; the same command continues an interrupted run.")],
    split: Annotated[str, typer.Option(help="What to train on.")] = "train",
    preset: Annotated[str, typer.Option(help="Settings to start from: paper, tiny, ...")] = "paper",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Replace a knob: --set N_b=1")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, clips and sampling.")] = 0,
    workers: Annotated[int, typer.Option(help="Data-parallel processes; each takes a part of every batch.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each worker; cores / workers if left out.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (a GPU for each worker).")] = "auto",
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster; an embedded Ray when left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Train a method in all its stages. Killed or interrupted, the same command goes on where it was."""
    started = time.monotonic()
    spec = method_spec(method)
    if preset not in spec.presets:
        raise unknown("preset", preset, spec.presets)
    if device not in USE_GPU:
        raise unknown("device", device, USE_GPU)
    if workers < 1 or (threads is not None and threads < 1):
        raise UserError(f"--workers {workers} --threads {threads} is not accepted: give 1 or more of each")
    asked = Asked(
        method=method,
        config=spec.config.from_mapping({**spec.presets[preset], **parse_settings(set_ or [])}),
        source=DataSource(root=data),
        split=split,
        out=out,
        seed=seed,
        workers=workers,
        threads=threads or max(1, len(os.sched_getaffinity(0)) // workers),
        device=device,
        ray=ray,
    )
    planned = _train(asked)
    _report(asked, planned, time.monotonic() - started, json)


def _train(asked: Asked) -> tuple[PlannedStage, ...]:
    # torch and Ray take seconds to import: not for --help, nor before a mistyped knob is found.
    from vodbench.cluster import check_workers, start_ray
    from vodbench.device import pick_device
    from vodbench.joining import check_shared
    from vodbench.storage import make_folder
    from vodbench.training.driver import check_begin, missing_stages, scaling_config, train
    from vodbench.training.fingerprints import plan_stages
    from vodbench.training.run_folder import check_run_folder, write_run_file

    device = asked.device if asked.ray is not None else str(pick_device(asked.device))
    dataset = asked.source.open()
    dataset.snippets(asked.split)
    planned = plan_stages(asked.method, asked.config, dataset.fingerprint, asked.seed, asked.split)
    run = {
        "method": asked.method,
        "config": asked.config.to_mapping(),
        "seed": asked.seed,
        "split": asked.split,
        "data": asked.source.root,
        "data_fingerprint": dataset.fingerprint,
        "fingerprint": planned[-1].fingerprint,
    }
    check_run_folder(asked.out, run)
    if asked.ray is None:  # before an embedded Ray is started: that takes seconds
        if not USE_GPU[asked.device]:
            check_workers(asked.workers)
        check_begin(missing_stages(asked.out, [planned]), len(dataset.classes))
        make_folder(asked.out)
    settings = {**asked.config.to_mapping(), "workers": asked.workers, "threads": asked.threads}
    announce(f"train {asked.method}", config=settings, seed=asked.seed, device=device, data=dataset.fingerprint)
    warn_of_beginnings(missing_stages(asked.out, [planned]))
    with _one_line_failures(), _bars(planned) as on_progress:
        if missing_stages(asked.out, [planned]):
            start_ray(asked.ray)
            scaling_config(asked.workers, USE_GPU[asked.device])  # refuses what Ray cannot give, before any writing
            if asked.ray is not None:
                check_shared([asked.source.root, asked.out])
        make_folder(asked.out)
        write_run_file(asked.out, run)
        train(
            asked.method,
            asked.config,
            asked.source,
            split=asked.split,
            store=asked.out,
            seed=asked.seed,
            workers=asked.workers,
            use_gpu=USE_GPU[asked.device],
            threads=asked.threads,
            on_progress=on_progress,
            revision=revision(),
        )
    return planned


@contextmanager
def _bars(planned: tuple[PlannedStage, ...]) -> Iterator[OnProgress]:
    """A bar a stage, with the loss beside it."""
    with progress() as bar:
        names = [p.stage.name for p in planned]
        tasks = {
            name: bar.add_task(name, total=p.stage.schedule.iterations) for name, p in zip(names, planned, strict=True)
        }

        def on_progress(stage: str, iteration: int, iterations: int, metrics: Mapping[str, float]) -> None:
            loss = f"  loss {metrics['loss']:.3f}" if "loss" in metrics else ""
            bar.update(tasks[stage], completed=iteration, total=iterations, description=f"{stage}{loss}")

        yield on_progress


@contextmanager
def _one_line_failures() -> Iterator[None]:
    """A loss that is not finite is no bug of ours: its line, not a traceback; exit status 1."""
    from vodbench.interruption import from_outside
    from vodbench.training.loop import TrainingError

    try:
        yield
    except TrainingError as error:
        if from_outside(error):
            raise
        console.print(f"[red]error:[/] {escape(redact_line(str(error)))}")
        for note in getattr(error, "__notes__", ()):
            console.print(escape(note))
        raise typer.Exit(1) from error


def _report(asked: Asked, planned: tuple[PlannedStage, ...], seconds: float, as_json: bool) -> None:
    from vodbench.checkpoints import checkpoint_url
    from vodbench.storage import read_text
    from vodbench.training.keeper import Folder

    url = checkpoint_url(asked.out, planned[-1].fingerprint)
    figures: dict[str, Any] = {"checkpoint": url, "fingerprint": planned[-1].fingerprint, "seconds": seconds}
    for p in planned:
        record = json_format.loads(read_text(Folder(asked.out, p.fingerprint).url("training.json")))
        last = record["history"][-1]
        figures[f"{p.stage.name}_loss"] = last["loss"]
        figures[f"{p.stage.name}_seconds"] = record["seconds"]
        losses = "  ".join(f"{k} {v:.4g}" for k, v in last.items() if k not in ("iteration", "clips_per_second"))
        console.print(f"{p.stage.name}: {last['iteration']} iterations, {record['seconds']:.1f} s  {losses}")
    console.print(f"checkpoint {escape(url)}  ({seconds:.1f} s)")
    if as_json:
        print_json(figures)
