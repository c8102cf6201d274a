"""``vodbench sweep``: run a study, or continue it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.cli.shared import announce, console, example, parse_settings, print_json, revision, warn_of_beginnings
from vodbench.redaction import redact
from vodbench.storage import exists, join
from vodbench.studies import Constraint, PublishedPoint, Study, load_study, published_points, violated

if TYPE_CHECKING:
    from vodbench.records import TrialRecord
    from vodbench.sweeps.running import SweepResult
    from vodbench.sweeps.steps import TrialContext

EPILOG = example(
    "vodbench sweep demo --data data/generated --out runs/demo",
    "vodbench sweep rdn-table4 --scale small",
    "vodbench sweep rdn-table4 --data s3://bucket/ILSVRC2015 --tracking http://mlflow:5000 --ray auto",
    "vodbench sweep demo --data data/generated --set search.sampler=tpe --set search.trials=20",
)


def command(
    study: Annotated[str, typer.Argument(help="A shipped study (see 'vodbench studies') or a .yaml file.")],
    data: Annotated[str | None, typer.Option(help="Data root, local or URL; replaces the study's.")] = None,
    out: Annotated[str | None, typer.Option(help="Study folder; runs/NAME when left out.")] = None,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; a SQLite file in the study folder when left out.")
    ] = None,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Database URL that gets a copy of the trials, for Optuna's dashboard.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="At most so many trials; replaces search.trials.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a key of the study: --set settings.iterations=200")
    ] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster; an embedded Ray when left out.")] = None,
    scale: Annotated[str | None, typer.Option(help="Scale of the study, e.g. small: see 'vodbench studies'.")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Where features are kept between trials: a folder or URL, or 'off'.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Run trials again that have failed before.")] = False,
    retry_stopped: Annotated[
        bool, typer.Option(help="Train to their end what was stopped as hopeless before.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live view: a line for each trial that ended.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Train, detect, judge and time every trial of a study. The same command continues an interrupted sweep."""
    overrides = parse_settings(set_ or [])
    if trials is not None:
        overrides["search.trials"] = trials
    if cache is not None:
        overrides |= {"cache.dtype": "off"} if cache == "off" else {"cache.url": cache}
    swept = run(
        Asked(
            study=study,
            overrides=overrides,
            data=data,
            out=out,
            scale=scale,
            tracking=tracking,
            optuna_storage=optuna_storage,
            ray=ray,
            retry_failed=retry_failed,
            retry_stopped=retry_stopped,
            quiet=quiet,
        )
    )
    if json:
        from vodbench.cluster import stop_ray

        stop_ray()  # which may have warnings left, and prints them to standard output
        print_json(_figures(swept))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command's arguments, for other commands too; ``overrides`` are those of ``--set``.

    ``video``: the folder for data that the study has generated; ``data`` in the study's own folder when left out.
    """

    study: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    video: str | None = None
    out: str | None = None
    scale: str | None = None
    tracking: str | None = None
    optuna_storage: str | None = None
    ray: str | None = None
    retry_failed: bool = False
    retry_stopped: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Swept:
    """A study that was run, with what came out and where."""

    study: Study
    result: SweepResult
    folder: str


def run(asked: Asked, *, table: bool = True) -> Swept:
    """Run a study or continue it, and say what came out: trial by trial with ``table``."""
    study, out = _chosen(asked)
    result, folder = _run(asked, study, out)
    if table:
        Console().print(trial_table(result.records, result.front, published_points(study), study.search.constraints))
    _closing_lines(result, folder)
    return Swept(study, result, folder)


def _chosen(asked: Asked) -> tuple[Study, str]:
    """The study as the arguments change it, and its folder. Generates its data where that is what it asks for."""
    overrides = dict(asked.overrides)
    if asked.data is not None:
        overrides["data.root"] = asked.data
    study = load_study(asked.study, overrides, asked.scale)
    folder = f"runs/{study.name}" if asked.out is None else asked.out
    if study.data.root is None and study.data.generate is not None:
        overrides["data.root"] = _generated(asked, study, folder)
        study = load_study(asked.study, overrides, asked.scale)
    return study, folder


def _generated(asked: Asked, study: Study, folder: str) -> str:
    """The root of the video that the study asks to be made. What else can be wrong is said before it is written."""
    from vodbench.cli.data import generated_shards
    from vodbench.studies import method_spaces
    from vodbench.sweeps.beginnings import check_beginnings
    from vodbench.sweeps.folder import StudyFolder
    from vodbench.tracking.optuna_study import open_storage
    from vodbench.tracking.server import connect

    method_spaces(study)
    published_points(study)
    if asked.tracking is not None:
        connect(asked.tracking)
    if asked.optuna_storage is not None:
        open_storage(asked.optuna_storage)
    own = StudyFolder(folder)
    own.check(study)
    if asked.ray is None and not exists(own.study_url):
        check_beginnings(study, folder, "unknown")
    assert study.data.generate is not None
    return generated_shards(join(folder, "data") if asked.video is None else asked.video, study.data.generate)


def _run(asked: Asked, study: Study, out: str) -> tuple[SweepResult, str]:
    # Ray and Optuna take seconds to import: not for --help, nor before a typing error in the study is found.
    from vodbench.studies import method_spaces

    method_spaces(study)
    from vodbench.device import pick_device
    from vodbench.sweeps.beginnings import check_beginnings, missing_beginnings
    from vodbench.sweeps.running import plan_sweep, run_sweep

    plan = plan_sweep(study, out, tracking_uri=asked.tracking, optuna_storage=asked.optuna_storage, revision=revision())
    if asked.ray is None:  # the weights that a cluster begins from are on its machines
        check_beginnings(study, plan.context.folder, plan.context.data_fingerprint)
    announce(
        f"sweep {study.name}",
        config={
            "methods": [entry.method for entry in study.methods],
            "sampler": study.search.sampler,
            "seeds": list(study.seeds),
            "preset": study.preset,
            "protocol": study.accuracy.protocol,
            "out": plan.context.folder,
            "tracking": plan.tracking_uri,
            **({"optuna_storage": plan.optuna_storage} if plan.optuna_storage else {}),
        },
        seed=study.search.seed,
        device=str(pick_device(study.runtime.device)),
        data=plan.context.data_fingerprint,
    )
    warn_of_beginnings(missing_beginnings(study, plan.context.folder, plan.context.data_fingerprint))
    _check_cluster(study, plan.context, asked.ray)
    result = run_sweep(
        plan,
        console,
        ray_address=asked.ray,
        retry_failed=asked.retry_failed,
        retry_stopped=asked.retry_stopped,
        quiet=asked.quiet,
    )
    return result, plan.context.folder


def _check_cluster(study: Study, context: TrialContext, ray: str | None) -> None:
    """Is the cluster there, can it hold one training, and do its nodes see our files? Asked before anything is kept."""
    from vodbench.cluster import check_workers, start_ray
    from vodbench.joining import check_shared
    from vodbench.training.driver import scaling_config

    workers = study.workers.training
    if ray is not None:
        start_ray(ray)
        scaling_config(workers, None)
        check_shared([context.source.root, context.folder])
    else:
        check_workers(workers)


def trial_table(
    records: list[TrialRecord],
    front: list[bool],
    published: list[PublishedPoint],
    constraints: Sequence[Constraint] = (),
) -> Table:
    """Trials by rising runtime, failed and stopped ones last; the paper's mAP beside ours where the study names it.

    A trial that breaks one of the ``constraints`` says so.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("", "trial", "mAP", "95%", "ms a frame", "p95"):
        table.add_column(name, justify="left" if name in ("", "trial", "95%") else "right")
    if published:
        table.add_column("paper mAP", justify="right")
        table.add_column("paper ms", justify="right")
    rows = sorted(zip(records, front, strict=True), key=lambda row: _runtime_ms(row[0]))
    for record, on_front in rows:
        cells = _cells(record, on_front, violated(record, constraints))
        if published:
            beside = next((p for p in published if p.matches(record)), None)
            cells += [
                f"{beside.map:.3f}" if beside and beside.map is not None else "",
                f"{beside.runtime_ms:.1f}" if beside and beside.runtime_ms else "",
            ]
        table.add_row(*cells, style=None if on_front or record.status != "complete" else "dim")
    return table


def _cells(record: TrialRecord, on_front: bool, broken: Sequence[Constraint]) -> list[str]:
    from vodbench.tracking.content import run_name

    name = escape(run_name(record))
    if record.accuracy is None or record.runtime is None:
        colour = "red" if record.status == "failed" else "yellow"
        return ["", f"{name}  [{colour}]{record.status}:[/] {escape(record.reason or '')}", "", "", "", ""]
    accuracy, runtime = record.accuracy, record.runtime
    interval = escape(f"[{accuracy.low:.3f}, {accuracy.high:.3f}]")
    busy = "*" if runtime.contended else ""
    name += f"  [yellow]not {' and '.join(map(str, broken))}[/]" if broken else ""
    times = [f"{runtime.mean_ms:.1f}{busy}", f"{runtime.p95_ms:.1f}"]
    return ["front" if on_front else "", name, f"{accuracy.map:.3f}", interval, *times]


def _closing_lines(result: SweepResult, folder: str) -> None:
    interrupted = sum(record.interrupted for record in result.records)
    failed, stopped = (sum(r.status == status for r in result.records) for status in ("failed", "stopped"))
    if any(record.runtime and record.runtime.contended for record in result.records):
        console.print("* the device was busy while this was measured")
    if interrupted:
        console.print(f"{interrupted} failed for what happened around them; the same command tries them again")
    if failed := failed - interrupted:
        console.print(f"{failed} failed; run again with --retry-failed to repeat them (traceback: trials/*/error.txt)")
    if stopped:
        saved, total = _iterations_saved(result, folder)
        console.print(
            f"{stopped} stopped as hopeless, which saved {saved} of {total} iterations; run again with --retry-stopped "
            "to train them to their end"
        )
    console.print(f"next: vodbench front {folder}   vodbench report {folder}")
    if result.tracked and result.tracking_uri.startswith("sqlite:"):
        console.print(f"MLflow: mlflow ui --backend-store-uri {redact(result.tracking_uri)}")


def _iterations_saved(result: SweepResult, folder: str) -> tuple[int, int]:
    from vodbench.sweeps.rung_steps import iterations_saved

    return iterations_saved(result.records, folder)


def _figures(swept: Swept) -> dict[str, Any]:
    result = swept.result
    complete = [record for record in result.records if record.status == "complete"]
    return {
        "study": swept.study.name,
        "out": swept.folder,
        "trials_complete": len(complete),
        "trials_failed": sum(record.status == "failed" for record in result.records),
        "trials_stopped": sum(record.status == "stopped" for record in result.records),
        "trials_new": result.ran,
        "iterations_saved": _iterations_saved(result, swept.folder)[0],
        "trainings": len({record.checkpoint for record in complete}),
        "front": [r.fingerprint for r, on_front in zip(result.records, result.front, strict=True) if on_front],
        "best_map": max((r.accuracy.map for r in complete if r.accuracy), default=None),
        "fastest_ms": min((r.runtime.mean_ms for r in complete if r.runtime), default=None),
        "tracked": result.tracked,
    }


def _runtime_ms(record: TrialRecord) -> float:
    return record.runtime.mean_ms if record.runtime else float("inf")
