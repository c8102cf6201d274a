"""``vodbench bench shards``: what reading a clip costs where clips come from many large shards, beside few."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from vodbench.cli import shared
from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Frame, SnippetInfo, Truth
from vodbench.storage import join
from vodbench_datasets.clips.bench import check_places, copies
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.shards.read import Shards, open_shards
from vodbench_datasets.shards.write import SHARD_BYTES, write_shards

EPILOG = shared.example("vodbench bench shards --json", "vodbench bench shards --also s3://bucket/bench --clips 400")

FEW = 4
SNIPPET_FRAMES = 200
REACH = 9  # supports lie up to so many frames away
KIB = 2**10


def command(
    shards: Annotated[int, typer.Option(help="Shards of 256 MiB that clips come from; ImageNet VID is 310.")] = 310,
    clips: Annotated[int, typer.Option(help="Clips a measurement, of three frames.")] = 1200,
    image_kib: Annotated[int, typer.Option(help="Size of an encoded frame; VID's have 66 KiB on average.")] = 66,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Also from here: a folder or URL that gets a copy of the shard for a while."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time reading clips at random from many shards against reading them from few, in this process.

    One shard stands for all: it is opened, and its footer kept, under as many numbers. First come the clips that
    find their shard for the first time, then ``--clips`` from shards that are known.
    """
    for name, value, low in (("shards", shards, FEW + 1), ("clips", clips, 1), ("image-kib", image_kib, 1)):
        if value < low:
            raise UserError(f"--{name} {value} is not accepted: an integer in [{low}, inf)")
    check_places(also or [])
    config = {"shards": shards, "clips": clips, "image_kib": image_kib, "also": also or []}
    shared.announce("bench shards", config=config, seed=seed, device="cpu")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vodbench-bench-") as folder:
        root = join(folder, "shards")
        with shared.console.status("writing a shard"):
            write_shards(MadeUp(image_kib * KIB, seed), root, shard_bytes=2 * SHARD_BYTES)
        with copies(open_shards(root), also or [], 2 * SHARD_BYTES) as found:
            places = {"local": root} | {name: each.root for name, each in found.items()}
            for name, place in places.items():
                few, many = (_measure(place, count, clips, seed) for count in (FEW, shards))
                figures |= _figures(name, few, many)
    if json:
        return shared.print_json(figures)
    _print(figures, list(places))
    return None


class MadeUp(RayClips):
    """Snippets for one full shard: two boxes a frame, and noise for an image, which nothing here decodes."""

    name, root, fingerprint, splits = "made-up", "nowhere", "made-up", ("train",)
    provenance: dict[str, str] = {}  # noqa: RUF012 - nothing changes it
    classes = (ClassInfo("n1", "cat"),)

    def __init__(self, image_bytes: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._bytes = image_bytes
        self._snippets = -(-SHARD_BYTES // (SNIPPET_FRAMES * image_bytes))

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(f"train/snippet_{number:08d}", SNIPPET_FRAMES) for number in range(self._snippets)]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        return [(info.id, 0) for info in self.snippets(split)]

    def read(self, split: str, snippet: str, indices: Any = None, *, with_images: bool = True) -> list[Frame]:
        two = np.arange(2)
        truth = Truth(np.ones((2, 4), np.float32), two + 1, two, two > 1, two > 1)
        return [Frame(snippet, index, self._rng.bytes(self._bytes), truth, {}) for index in indices]


@dataclass(frozen=True, slots=True)
class _Cost:
    first_ms: float  # of a clip whose shard was not read before
    cpu_ms: float  # of a clip of a shard that was
    ms: float


def _measure(root: str, count: int, clips: int, seed: int) -> _Cost:
    shards = _widened(root, count)
    snippets = [info.id for info in shards.snippets("train")]
    per_shard = len(snippets) // count
    rng = np.random.default_rng(seed)

    def read(number: int) -> None:
        reference = int(rng.integers(REACH, SNIPPET_FRAMES - REACH))
        supports = rng.integers(-REACH, REACH + 1, 2) + reference
        snippet = snippets[number * per_shard + int(rng.integers(per_shard))]
        shards.read("train", snippet, sorted({reference, *supports.tolist()}))

    read(0)  # what the first read of a process brings along: clients, imports
    started = time.perf_counter()
    for number in range(1, count):
        read(number)
    first = time.perf_counter() - started
    started, cpu = time.perf_counter(), time.process_time()
    for number in rng.integers(count, size=clips).tolist():
        read(number)
    cpu, taken = time.process_time() - cpu, time.perf_counter() - started
    return _Cost(1000 * first / (count - 1), 1000 * cpu / clips, 1000 * taken / clips)


def _widened(root: str, count: int) -> Shards:
    """The one shard under ``root`` as so many, each with its snippets."""
    shards = open_shards(root)
    (shard,), records = shards.index.shards, shards.index.snippets["train"]
    wide = [
        record.model_copy(update={"shard": number, "id": f"{number}/{record.id}"})
        for number in range(count)
        for record in records
    ]
    shards.index = shards.index.model_copy(update={"shards": (shard,) * count, "snippets": {"train": tuple(wide)}})
    return shards


def _figures(name: str, few: _Cost, many: _Cost) -> dict[str, float]:
    return {
        f"{name}_few_cpu_ms_a_clip": few.cpu_ms,
        f"{name}_many_cpu_ms_a_clip": many.cpu_ms,
        f"{name}_many_ms_a_clip": many.ms,
        f"{name}_first_of_a_shard_ms": many.first_ms,
        f"many_over_few_cpu_{name}": many.cpu_ms / few.cpu_ms,
        f"many_over_few_{name}": many.ms / few.ms,
    }


def _print(figures: dict[str, float], places: list[str]) -> None:
    shown = Table(
        "from", "CPU ms a clip, few shards", "many", "x few", "ms a clip, many", "x few", "first of a shard, ms"
    )
    for name in places:
        keys = (
            f"{name}_few_cpu_ms_a_clip",
            f"{name}_many_cpu_ms_a_clip",
            f"many_over_few_cpu_{name}",
            f"{name}_many_ms_a_clip",
            f"many_over_few_{name}",
            f"{name}_first_of_a_shard_ms",
        )
        shown.add_row(name, *(f"{figures[key]:.2f}" for key in keys))
    shared.console.print(shown)
