"""``vodbench data``: look at data, generate some, shard it, verify shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.cli.shared import announce, console, example, parse_settings, print_json, progress, revision
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.registry import data_tool
from vodbench.spec import Dataset
from vodbench.storage import join

app = typer.Typer(
    help="Look at data, generate some, copy it into shards, verify shards.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=example("vodbench data describe s3://bucket/ILSVRC2015"),
)

Kind = Annotated[str, typer.Option(help="Kind of data ('vodbench datasets' lists them); auto looks.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Option of the reader, e.g. skip_bad=true.")
]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Split to take, repeatable; all when left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]

_MIB = 2**20
_GENERATED_SHARD_MIB = 8  # several shards even of little video


@app.command(
    epilog=example(
        "vodbench data describe runs/video", "vodbench data describe s3://bucket/ILSVRC2015 --split val --json"
    )
)
def describe(
    root: Annotated[str, typer.Argument(help="Folder or URL of the data.")],
    split: Splits = None,
    kind: Kind = "auto",
    settings: Options = None,
    as_json: AsJson = False,
) -> None:
    """Count what a data set holds: snippets, frames, boxes, classes, sizes, deteriorations."""
    from vodbench.describe import describe as collect

    dataset = _open(root, kind, settings)
    splits = split or list(dataset.splits)
    announce("data describe", config={"root": root, "kind": dataset.name, "split": splits}, data=dataset.fingerprint)
    with _bar("reading annotations") as on_progress:
        facts = collect(dataset, splits, on_progress)
    _tell_skipped(dataset)
    if as_json:
        print_json({"root": root, "kind": dataset.name, "fingerprint": dataset.fingerprint, "splits": facts})
        return
    _print_facts(facts)


@app.command(
    epilog=example(
        "vodbench data generate runs/video",
        "vodbench data generate runs/video --snippets 20 --size 96 --set motion_blur=[0.2,0.8]",
    )
)
def generate(
    out: Annotated[str, typer.Argument(help="New folder or URL; it becomes an ILSVRC tree.")],
    snippets: Annotated[int, typer.Option(help="Training snippets.")] = 120,
    val_snippets: Annotated[int, typer.Option(help="Validation snippets.")] = 24,
    frames: Annotated[int, typer.Option(help="Frames of every snippet.")] = 24,
    stills: Annotated[int, typer.Option(help="Training images that are no video, as ImageNet DET is.")] = 0,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 128,
    classes: Annotated[int, typer.Option(help="Classes; 1 and 2 look alike, as do 3 and 4.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    flow: Annotated[bool, typer.Option(help="Record exact motion, for training on ground-truth flow.")] = True,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, e.g. a deterioration's [low, high]."),
    ] = None,
) -> None:
    """Generate video with exact annotation and recorded deteriorations."""
    given = {
        "snippets": snippets,
        "val_snippets": val_snippets,
        "stills": stills,
        "frames": frames,
        "size": size,
        "classes": classes,
        "seed": seed,
        "flow": flow,
    }
    config = data_tool("generator_config")({**given, **parse_settings(settings or ())})
    announce("data generate", config={"out": out, **config.as_dict()}, seed=config.seed)
    with _bar("generating snippets") as on_progress:
        data_tool("generate")(out, config, on_progress=on_progress)
    images = f" and {config.stills} images" if config.stills else ""
    console.print(f"{config.snippets} + {config.val_snippets} snippets{images} in {escape(out)}")


def generated_shards(folder: str, settings: Mapping[str, Any]) -> str:
    """Generate video below ``folder`` and shard it, or find it there; returns the shards' root.

    ``settings``: of the generator, by name. ``UserError`` for one that it does not have.
    """
    config = data_tool("generator_config")(settings)
    video, shards = join(folder, "video"), join(folder, "shards")
    announce("data generate", config={"out": video, **config.as_dict()}, seed=config.seed)
    with _bar("generating snippets") as on_progress:
        data_tool("generate")(video, config, on_progress=on_progress)
    shard(video, shards, shard_mib=_GENERATED_SHARD_MIB)
    return shards


@app.command(
    epilog=example(
        "vodbench data shard runs/video runs/shards", "vodbench data shard ILSVRC2015 s3://bucket/vid --split val"
    )
)
def shard(
    src: Annotated[str, typer.Argument(help="Folder or URL of the data.")],
    dst: Annotated[str, typer.Argument(help="New folder or URL; after an interruption, the same one again.")],
    split: Splits = None,
    shard_mib: Annotated[float, typer.Option(help="Size of a shard in MiB; whole snippets, so it may be more.")] = 256,
    kind: Kind = "auto",
    settings: Options = None,
) -> None:
    """Copy a data set into Parquet shards; JPEG bytes stay as they are."""
    if not 0 < shard_mib < float("inf"):
        raise UserError(f"--shard-mib {shard_mib:g} is not accepted: a number of MiB above 0")
    dataset = _open(src, kind, settings)
    config = {"src": src, "dst": dst, "split": split or list(dataset.splits), "shard_mib": shard_mib}
    announce("data shard", config=config, data=dataset.fingerprint)
    with _bar("sharding snippets") as on_progress:
        index = data_tool("shard")(
            dataset,
            dst,
            splits=split,
            shard_bytes=math.ceil(shard_mib * _MIB),
            provenance={"revision": revision()},
            on_progress=on_progress,
        )
    _tell_skipped(dataset)
    for name, counts in index.counts.items():
        console.print(f"{name}: {counts.snippets} snippets, {counts.frames} frames, {counts.boxes} boxes")
    total = sum(entry.bytes for entry in index.shards)
    console.print(f"{len(index.shards)} shards, {total / _MIB:.1f} MiB in {escape(dst)}; data {index.fingerprint}")


@app.command(epilog=example("vodbench data verify runs/shards", "vodbench data verify s3://bucket/vid --json"))
def verify(
    root: Annotated[str, typer.Argument(help="Folder or URL of the shards.")],
    as_json: AsJson = False,
) -> None:
    """Read every shard and name what is missing, truncated or altered; exit status 1 when anything is."""
    announce("data verify", config={"root": root})
    with _bar("verifying shards") as on_progress:
        problems: list[str] = data_tool("verify")(root, on_progress)
    for problem in problems:
        typer.echo(problem)
    console.print(f"{len(problems)} problems; write the shards again" if problems else "no problem found")
    if as_json:
        print_json({"root": root, "problems": problems})
    if problems:
        raise typer.Exit(1)


def _open(root: str, kind: str, settings: Sequence[str] | None) -> Dataset:
    return DataSource(root=root, kind=kind, options=parse_settings(settings or ())).open()


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as the callback (done, in all) that long functions take."""
    with progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell_skipped(dataset: Dataset) -> None:
    """What ``skip_bad`` left out is said, never silently dropped."""
    skipped: dict[str, str] = getattr(dataset, "skipped", {})
    for name, reason in skipped.items():
        console.print(f"left out {escape(name)}: {escape(reason)}")
    if skipped:
        console.print(f"left out {len(skipped)} in all")


def _print_facts(facts: dict[str, dict[str, Any]]) -> None:
    """A row a fact, one column a split; facts of facts are named after both."""
    flat = {split: _flatten(values) for split, values in facts.items()}
    order = list(next(iter(facts.values())))
    names = dict.fromkeys(name for values in flat.values() for name in values)
    rows = Table("", *facts, box=None)
    for name in sorted(names, key=lambda name: order.index(name[0])):
        cells = [values.get(name) for values in flat.values()]
        spread = " (min/median/max)" if any(isinstance(cell, dict) and "min" in cell for cell in cells) else ""
        rows.add_row(escape(": ".join(name).replace("_", " ") + spread), *map(_cell, cells))
    Console().print(rows)


def _flatten(values: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and not {"min", "mean_strength"} & set(value):
            flat.update(_flatten(value, (*above, name)))
        else:
            flat[*above, name] = value
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and "min" in value:
        return f"{value['min']:,} / {value['median']:,} / {value['max']:,}"
    if isinstance(value, dict):
        return f"{value['frames']:,} frames, mean {value['mean_strength']}"
    return f"{value:,}"
