"""``vodbench study``: questions about a whole study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.cli import sweep
from vodbench.cli.shared import console, example, print_json, progress
from vodbench.errors import UserError, unknown
from vodbench.storage import join, write_text
from vodbench.studies import load_study, shipped_studies

if TYPE_CHECKING:
    from vodbench.gains import Gain
    from vodbench.gains.judge import Paired

PREFIX = "gains-"
RANGES = ("slow", "medium", "fast")

app = typer.Typer(
    help="Questions about a whole study.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    epilog="Example:\n\n`vodbench study gains relation`",
)


@app.callback()
def root() -> None:
    """Questions about a whole study."""


@app.command(
    epilog=example(
        "vodbench study gains relation --out runs/gains-relation",
        "vodbench study gains my-study.yaml --data s3://bucket/shards --scale paper",
    )
)
def gains(
    study: Annotated[str, typer.Argument(help="A family (relation), a study that has comparisons, or a .yaml file.")],
    data: Annotated[str | None, typer.Option(help="Data root, local or URL; generated video when left out.")] = None,
    out: Annotated[str | None, typer.Option(help="Study folder; runs/NAME when left out.")] = None,
    scale: Annotated[str | None, typer.Option(help="Scale of the study: see 'vodbench studies'.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
    motion: Annotated[bool, typer.Option(help="Also on frames of slow, medium and fast objects.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Run what is missing of a study, then say which part helps: paired differences with 95% intervals.

    Differences are paired over snippets and seeds; the same command continues an interrupted one.
    """
    name = _named(study)
    if not load_study(name, scale=scale).comparisons:
        raise UserError(f"study '{name}' has no 'comparisons'; add some, or choose one of {', '.join(_families())}")
    asked = sweep.Asked(study=name, data=data, out=out, tracking=tracking, scale=scale)
    folder = sweep.run(asked, table=False).folder
    found = _judged(folder)
    write_text(join(folder, "gains.json"), _json_text(found))
    Console().print(_table(found))
    if motion:
        Console().print(_motion_table(found))
    console.print(f"figures: {escape(join(folder, 'gains.json'))}")
    if json:
        print_json({"out": folder, "gains": [gain.figures() for gain in found]})


def _families() -> list[str]:
    return [name.removeprefix(PREFIX) for name in shipped_studies() if name.startswith(PREFIX)]


def _named(study: str) -> str:
    if study.endswith((".yaml", ".yml")) or study in shipped_studies():
        return study
    if study not in _families():
        raise unknown("family of gains", study, _families())
    return PREFIX + study


def _judged(folder: str) -> list[Gain]:
    from vodbench.data_source import DataSource
    from vodbench.evaluation import truth_set
    from vodbench.gains import study_gains
    from vodbench.sweeps.folder import StudyFolder

    files = StudyFolder(folder)
    study = files.study()
    assert study.data.root is not None
    source = DataSource(root=study.data.root, kind=study.data.dataset, options=study.data.options)
    truth = truth_set(source.open(), study.data.val)
    with progress() as bar:
        task = bar.add_task("comparing", total=None)
        return study_gains(
            study,
            list(files.records().values()),
            truth,
            lambda record: join(folder, record.detections or ""),
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def _json_text(found: Sequence[Gain]) -> str:
    import json

    return json.dumps([gain.figures() for gain in found], indent=2) + "\n"


def _table(found: Sequence[Gain]) -> Table:
    """One row a comparison; an interval without 0 is marked, and so is a speed taken on a busy device."""
    caption = (
        "* the 95% interval over snippets does not hold 0; ~ measured on a busy device; key frames: share of frames "
        "that the backbone saw in full, of a and of b"
    )
    table = Table(box=None, pad_edge=False, caption=caption)
    columns = (
        "comparison",
        "mAP a",
        "mAP b",
        "difference (95%)",
        "by seed",
        "deteriorated frames",
        "a's speed",
        "a's GFLOPs",
        "key frames",
        "paper",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("comparison", "by seed") else "right")
    for gain in found:
        table.add_row(
            escape(gain.name),
            f"{gain.a_map:.3f}",
            f"{gain.b_map:.3f}",
            _shown(gain.every_frame),
            " ".join(f"{value:+.3f}" for value in gain.every_frame.by_seed),
            "" if gain.deteriorated is None else _shown(gain.deteriorated),
            "" if gain.speed is None else f"{'~' if gain.contended else ''}x {gain.speed:.2f}",
            "" if gain.operations is None else f"x {gain.operations:.2f}",
            _key_frames(gain),
            "" if gain.paper is None else f"{gain.paper:+.3f}",
        )
    return table


def _key_frames(gain: Gain) -> str:
    """Empty where every frame is one for both."""
    if gain.a_keys is None or gain.b_keys is None or gain.a_keys == gain.b_keys == 1:
        return ""
    return f"{gain.a_keys:.0%} {gain.b_keys:.0%}"


def _motion_table(found: Sequence[Gain]) -> Table:
    """The same differences on frames whose objects are all slow, all medium or all fast."""
    table = Table(box=None, pad_edge=False, title="frames by the motion of their objects")
    table.add_column("comparison")
    for name in RANGES:
        table.add_column(name, justify="right")
    for gain in found:
        differences = (gain.on_frames.get(name) for name in RANGES)
        table.add_row(escape(gain.name), *("" if paired is None else _shown(paired) for paired in differences))
    return table


def _shown(paired: Paired) -> str:
    return escape(f"{paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}]") + ("*" if paired.certain else " ")
