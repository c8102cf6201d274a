"""``vodbench bench runtime``: what methods cost beside the single-frame detector, measured in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from rich.table import Table

from vodbench.cli import shared
from vodbench.device import describe_device, pick_device
from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig
from vodbench.records import Runtime
from vodbench.registry import method_spec, table
from vodbench.spec import Image, MethodSpec, SnippetInfo, Truth
from vodbench.timing.runtime import measure_sample

EPILOG = shared.example(
    "vodbench bench runtime --json", "vodbench bench runtime --method rdn --preset paper --size 600 --frames 60"
)

NUM_CLASSES = 30
SEED = 0


def command(
    method: Annotated[list[str] | None, typer.Option(help="Methods to time (repeatable); all by default.")] = None,
    preset: Annotated[str, typer.Option(help="Configuration that every method ships with: paper, tiny, ...")] = "tiny",
    size: Annotated[int, typer.Option(help="Shorter side of the frames; the longer is 5/3 of it.")] = 128,
    frames: Annotated[int, typer.Option(help="Frames a snippet.")] = 24,
    snippets: Annotated[int, typer.Option(help="Snippets.")] = 2,
    repeats: Annotated[int, typer.Option(help="Undisturbed passes wanted of each snippet.")] = 3,
    threads: Annotated[int, typer.Option(help="Torch threads on a CPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    baseline: Annotated[str, typer.Option(help="The method that ratios compare with.")] = "faster-rcnn",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Time methods with random weights on made-up frames: medians, stages, and ratios to the single-frame detector.

    Random weights make the network cost what it costs trained; how many proposals survive NMS may differ.
    """
    for name, value, low in (("size", size, 32), ("frames", frames, 2), ("snippets", snippets, 1)):
        if value < low:
            raise UserError(f"--{name} {value} is not accepted: an integer in [{low}, inf)")
    names = list(dict.fromkeys([baseline, *(method or table("methods"))]))
    configs = {name: _config(method_spec(name), preset) for name in names}
    place = pick_device(device)
    shared.announce(
        f"bench runtime of {', '.join(names)}",
        config={"preset": preset, "size": size, "frames": frames, "snippets": snippets, "threads": threads},
        seed=SEED,
        device=describe_device(place),
    )
    sample = MadeUpFrames(snippets, frames, size)
    measured: dict[str, Runtime] = {}
    with shared.progress() as bar:
        task = bar.add_task("methods", total=len(names))
        for name, config in configs.items():
            bar.update(task, description=name)
            torch.manual_seed(SEED)
            built = method_spec(name).build(config, NUM_CLASSES)
            measured[name] = measure_sample(
                built, config, sample, device=place, threads=threads, repeats=repeats, name=name
            )
            bar.advance(task)
    if json:
        shared.print_json(figures(measured, baseline))
    else:
        _print(measured, baseline)


class MadeUpFrames:
    """Seeded noise of several scales that drifts: compressible nowhere, alike from frame to frame."""

    def __init__(self, num_snippets: int, num_frames: int, size: int) -> None:
        self.snippets = [SnippetInfo(f"made-up-{n}", num_frames) for n in range(num_snippets)]
        self.decode_seconds: list[float] = []
        self._size = (size, round(size * 5 / 3))

    def annotated(self, snippet: SnippetInfo) -> Iterator[tuple[Image, Truth]]:
        """The same with nothing in them."""
        return ((image, Truth.empty()) for image in self.images(snippet))

    def images(self, snippet: SnippetInfo) -> Iterator[Image]:
        rng = np.random.default_rng(self.snippets.index(snippet))
        height, width = self._size
        scene = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64):
            noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
            scene += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        scene = 255 * (scene - scene.min()) / np.ptp(scene)
        for number in range(snippet.num_frames):
            yield np.roll(scene, 2 * number, axis=1).astype(np.uint8)


def figures(measured: Mapping[str, Runtime], baseline: str) -> dict[str, Any]:
    """By name: times, GFLOPs, stages, and ratios of medians and of GFLOPs to the baseline of the same run."""
    base = measured[baseline]
    found: dict[str, Any] = {
        "baseline": baseline,
        "device": base.device,
        "threads": base.threads,
        "contended": any(r.contended for r in measured.values()),
    }
    for name, runtime in measured.items():
        for figure in ("median_ms", "p95_ms", "mean_ms", "gflops", "peak_memory_mb", "latency_frames", "stage_ms"):
            found[f"{name}_{figure}"] = getattr(runtime, figure)
        if name != baseline:
            found[f"{name}_over_{baseline}"] = runtime.median_ms / base.median_ms
            if runtime.gflops and base.gflops:
                found[f"{name}_gflops_over_{baseline}"] = runtime.gflops / base.gflops
    return found


def _config(spec: MethodSpec, preset: str) -> MethodConfig:
    if preset not in spec.presets:
        raise unknown(f"preset of {spec.name}", preset, spec.presets)
    return spec.config.from_mapping(spec.presets[preset])


def _print(measured: Mapping[str, Runtime], baseline: str) -> None:
    columns = (
        "method",
        "median ms",
        "95% interval",
        "p95",
        "mean",
        f"x {baseline}",
        "GFLOPs",
        "MB",
        "stages, ms a frame",
    )
    shown = Table(*columns, title="runtime a frame, batch 1, streamed")
    for name, r in measured.items():
        ratio = r.median_ms / measured[baseline].median_ms
        shown.add_row(
            name,
            f"{r.median_ms:.2f}{' (contended)' if r.contended else ''}",
            f"{r.low_ms:.2f} - {r.high_ms:.2f}",
            f"{r.p95_ms:.2f}",
            f"{r.mean_ms:.2f}",
            f"{ratio:.2f}",
            "-" if r.gflops is None else f"{r.gflops:.3f}",
            f"{r.peak_memory_mb:.0f}",
        )
    stages = Table("stage, mean ms a frame", *measured)
    for stage in dict.fromkeys(stage for r in measured.values() for stage in r.stage_ms):
        stages.add_row(stage, *(f"{r.stage_ms[stage]:.2f}" if stage in r.stage_ms else "-" for r in measured.values()))
    shared.console.print(shown, stages, *dict.fromkeys(r.note for r in measured.values()), sep="\n")
