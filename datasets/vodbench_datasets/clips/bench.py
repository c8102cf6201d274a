"""``vodbench bench data``: how fast training clips arrive, beside nothing but decoding their frames."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, cast

import psutil
import typer
from rich.table import Table

from vodbench.cli import shared
from vodbench.cluster import start_ray, stop_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench.storage import exists, filesystem, join
from vodbench_datasets.clips.throughput import Flow, decoding, encoded_frames, reading
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import Shards, open_shards, write_shards
from vodbench_datasets.shards.write import ShardSource

EPILOG = shared.example("vodbench bench data --json", "vodbench bench data --also s3://bucket/bench --repeats 1")

SNIPPETS, FRAMES = 6, 48
SHARD_BYTES = 4 * 2**20
MIB = 2**20


def command(
    also: Annotated[
        list[str] | None,
        typer.Option(help="Also from here: a folder or URL that gets a copy of the shards for a while."),
    ] = None,
    clips: Annotated[int, typer.Option(help="Clips a measurement; few are read before they are asked for.")] = 1200,
    supports: Annotated[int, typer.Option(help="Support frames a clip, beside its reference frame.")] = 2,
    size: Annotated[
        int, typer.Option(help="Side of the frames; 960: the pixels of 1280 x 720, as VID has them.")
    ] = 960,
    repeats: Annotated[int, typer.Option(help="Measurements of each; their median counts.")] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time training clips from shards against decoding the same frames from memory, on the same cores.

    A training worker decodes in one thread, so the yardstick is one thread as well. Clips come through Ray Data as
    they do in training, to a consumer that does nothing else. Frames a second after the first clips have arrived; what
    comes before is told apart, and what the decoding thread waited for: a core (a store's server on the same machine
    takes its share of them), or data.
    """
    for name, value, low in (
        ("clips", clips, 32),
        ("supports", supports, 0),
        ("size", size, 32),
        ("repeats", repeats, 1),
    ):
        if value < low:
            raise UserError(f"--{name} {value} is not accepted: an integer in [{low}, inf)")
    check_places(also or [])
    config = {"clips": clips, "supports": supports, "size": size, "repeats": repeats, "also": also or []}
    shared.announce("bench data", config=config, seed=seed, device=f"cpu, {len(os.sched_getaffinity(0))} cores")
    wanted = ClipSpec(num_supports=supports, offset_low=-9, offset_high=9)
    with tempfile.TemporaryDirectory(prefix="vodbench-bench-") as folder:
        places = {"local": _made_up_shards(folder, size, seed)}
        with copies(places["local"], also or [], SHARD_BYTES) as found:
            figures = _measure(places | found, wanted, clips, seed, repeats)
    if json:
        return shared.print_json(figures)
    _print(figures, [*places, *found])
    return None


def _made_up_shards(folder: str, size: int, seed: int) -> Shards:
    """Generated video in shards: JPEG of natural size, cheap to make."""
    tree, shards = join(folder, "tree"), join(folder, "shards")
    config = GeneratorConfig(snippets=SNIPPETS, val_snippets=1, frames=FRAMES, size=size, seed=seed, flow=False)
    with shared.console.status("generating video"):
        generate(tree, config)
        write_shards(cast(ShardSource, DataSource(root=tree).open()), shards, shard_bytes=SHARD_BYTES)
    return open_shards(shards)


def check_places(urls: Sequence[str]) -> None:
    """Before the shards are made, which takes a while: ``UserError`` for a place that cannot be asked for a file."""
    for url in urls:
        exists(url)


@contextmanager
def copies(original: Shards, urls: list[str], shard_bytes: int) -> Iterator[dict[str, Shards]]:
    """The same shards at other places, under the name of their scheme; removed at the end, with nothing beside them."""
    made: dict[str, str] = {}
    try:
        for url in urls:
            name = url.partition("://")[0] if "://" in url else "local"
            made[_unique(name, made)] = place = join(url, f"vodbench-bench-{uuid.uuid4().hex[:12]}")
            with shared.console.status(f"copying the shards to {url}"):
                write_shards(original, place, shard_bytes=shard_bytes)
        yield {name: open_shards(place) for name, place in made.items()}
    finally:
        for place in made.values():
            fs, path = filesystem(place)
            if fs.exists(path):
                fs.rm(path, recursive=True)


def _unique(name: str, taken: dict[str, str]) -> str:
    """``local`` is the folder that is always measured; the others get a number where their names repeat."""
    names = ["local", *taken]
    return (
        name if name not in names else next(f"{name}{n}" for n in range(2, len(names) + 2) if f"{name}{n}" not in names)
    )


def _measure(places: dict[str, Shards], wanted: ClipSpec, clips: int, seed: int, repeats: int) -> dict[str, Any]:
    """Decoding and every place in turns, so that what else the machine does falls on all of them."""
    frames = encoded_frames(places["local"], wanted, clips, seed)
    swapped = psutil.swap_memory().sout
    found: dict[str, list[Flow]] = {name: [] for name in ("decode", *places)}
    start_ray()
    try:
        import ray

        store = ray.cluster_resources()["object_store_memory"]  # type: ignore[no-untyped-call]
        with shared.progress() as bar:
            task = bar.add_task("measuring", total=repeats * len(found))
            for _ in range(repeats):
                found["decode"].append(decoding(frames))
                bar.advance(task)
                for name, shards in places.items():
                    found[name].append(reading(shards, wanted, clips, seed))
                    bar.advance(task)
    finally:
        stop_ray()
    return _figures(found) | {
        "object_store_mib": store / MIB,
        "swapped_mib": (psutil.swap_memory().sout - swapped) / MIB,
    }


def _figures(found: dict[str, list[Flow]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    decode = Flow.median(found["decode"])
    for name, flows in found.items():
        flow = Flow.median(flows)
        figures[f"{name}_frames_per_second"] = flow.frames_per_second
        figures[f"{name}_cpu_ms_a_frame"] = flow.cpu_ms_a_frame
        if name != "decode":
            figures[f"fraction_of_decode_{name}"] = flow.frames_per_second / decode.frames_per_second
            figures[f"cpu_over_decode_{name}"] = flow.cpu_ms_a_frame / decode.cpu_ms_a_frame
            figures[f"first_clip_seconds_{name}"] = flow.first_seconds
            figures[f"{name}_core_wait_ms_a_frame"] = flow.core_wait_ms_a_frame
            figures[f"{name}_data_wait_ms_a_frame"] = flow.data_wait_ms_a_frame
    return figures


def _print(figures: dict[str, Any], places: list[str]) -> None:
    shown = Table(
        "from",
        "frames a second",
        "of decoding",
        "CPU ms a frame",
        "x decoding",
        "waits for a core",
        "for data",
        "first clip after, s",
    )
    speed, cpu = figures["decode_frames_per_second"], figures["decode_cpu_ms_a_frame"]
    shown.add_row("memory", f"{speed:.2f}", "", f"{cpu:.2f}")
    for name in places:
        shown.add_row(
            name,
            f"{figures[f'{name}_frames_per_second']:.2f}",
            f"{figures[f'fraction_of_decode_{name}']:.2f}",
            f"{figures[f'{name}_cpu_ms_a_frame']:.2f}",
            f"{figures[f'cpu_over_decode_{name}']:.2f}",
            _ms(figures[f"{name}_core_wait_ms_a_frame"]),
            _ms(figures[f"{name}_data_wait_ms_a_frame"]),
            f"{figures[f'first_clip_seconds_{name}']:.1f}",
        )
    shared.console.print(shown)
    shared.console.print(
        f"object store {figures['object_store_mib']:.0f} MiB, swapped out meanwhile {figures['swapped_mib']:.0f} MiB"
    )


def _ms(value: float | None) -> str:
    return "not counted here" if value is None else f"{value:.2f} ms"
