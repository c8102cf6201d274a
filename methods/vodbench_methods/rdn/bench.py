"""``vodbench bench stream``: what streaming RDN costs beside the single-frame detector, and how that grows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from rich.table import Table

from vodbench.bench.runtime import MadeUpFrames
from vodbench.cli import shared
from vodbench.device import describe_device, pick_device
from vodbench.errors import UserError, unknown
from vodbench.registry import method_spec
from vodbench.spec import Detections, Image
from vodbench.timing.clock import NullClock, StageClock, torch_threads
from vodbench_methods.detection.config import FasterRCNNConfig
from vodbench_methods.detection.faster_rcnn import FasterRCNN
from vodbench_methods.detection.measure import assert_exact, largest_difference, timed
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.rdn.config import RDNConfig
from vodbench_methods.rdn.full import RDN
from vodbench_methods.rdn.growth import Growth, draw_growth, measure_growth
from vodbench_methods.rdn.stream import RDNStream, detect_window

EPILOG = shared.example(
    "vodbench bench stream --preset tiny --json",
    "vodbench bench stream --preset paper --T 18 --json",
    "vodbench bench stream --preset paper --growth --plot growth.png",
)

NUM_CLASSES = 30
SEED = 0
ENCODED_FRAMES = 3  # different frames that fill the window, over and over: what a frame costs does not depend on them


def command(
    preset: Annotated[str, typer.Option(help="Configuration of both methods: paper, small, tiny.")] = "tiny",
    support_frames: Annotated[int, typer.Option("--T", help="Support frames on each side.")] = 18,
    frames: Annotated[int, typer.Option(help="Frames timed with each method, in turns.")] = 5,
    threads: Annotated[int, typer.Option(help="Torch threads on a CPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    growth: Annotated[bool, typer.Option(help="Also the cost against T, K, N_b and r (takes minutes).")] = False,
    plot: Annotated[str | None, typer.Option(help="Draw --growth into this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time a frame of streaming RDN with a full window against the single-frame detector on the same backbone.

    Weights are random, frames made up. What the stream keeps between steps is exact: its detections are compared with
    the window's, computed from scratch.
    """
    for name, value in (("T", support_frames), ("frames", frames), ("threads", threads)):
        if value < 1:
            raise UserError(f"--{name} {value} is not accepted: an integer in [1, inf)")
    if plot is not None and not growth:
        raise UserError(f"--plot {plot} draws what --growth measures; add --growth")
    if plot is not None and not Path(plot).absolute().parent.is_dir():
        raise UserError(f"--plot {plot}: the folder does not exist; make it or name another file")
    config, place = _config(preset, support_frames), pick_device(device)
    shared.announce(
        "bench stream",
        config={"preset": preset, "size": config.short_side, "T": config.T, "K": config.K, "threads": threads},
        seed=SEED,
        device=describe_device(place),
    )
    with torch_threads(threads):
        with shared.console.status("streaming both methods"):
            found = _compare(*_methods(config, place), frames, place)
        curves = _grown(config, place) if growth else []
    if plot is not None:
        draw_growth(curves, plot)
    found["growth"] = {curve.knob: curve.figures() for curve in curves}
    if json:
        shared.print_json(found)
    else:
        _print(found, curves)


def _config(preset: str, support_frames: int) -> RDNConfig:
    spec = method_spec("rdn")
    if preset not in spec.presets:
        raise unknown("preset of rdn", preset, spec.presets)
    config = spec.config.from_mapping({**spec.presets[preset], "T": support_frames})
    assert isinstance(config, RDNConfig)
    return config


def _grown(config: RDNConfig, place: torch.device) -> list[Growth]:
    with shared.progress() as bar:
        task = bar.add_task("growth", total=None)
        return measure_growth(
            config, place, lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
        )


def _methods(config: RDNConfig, device: torch.device) -> tuple[FasterRCNN, RDN]:
    """Both with the same random backbone and proposals."""
    torch.manual_seed(SEED)
    single = FasterRCNN(narrowed(config, FasterRCNNConfig), NUM_CLASSES).eval().to(device)
    method = RDN(config, NUM_CLASSES).eval().to(device)
    method.load_initial(single.state_dict())
    return single, method


@torch.inference_mode()
def _compare(single: FasterRCNN, method: RDN, count: int, device: torch.device) -> dict[str, Any]:
    config = method.config
    sample = MadeUpFrames(1, count, config.short_side)
    images = list(sample.images(sample.snippets[0]))
    clocks = StageClock(device), StageClock(device)
    alone = single.stream(None, clocks[0])
    stream = cast(RDNStream[Detections], method.stream(None, clocks[1]))
    window = _fill(method, stream, images, config)
    alone.push(images[0])  # first calls are slow
    for clock in clocks:
        clock.take_ms()
    single_ms, stream_ms, last = [], [], None
    for image in images:
        single_ms.append(timed(partial(alone.push, image), device)[0])
        milliseconds, final = timed(partial(stream.push, image), device)
        stream_ms.append(milliseconds)
        window = [*window[1:], method.encode(image, config, NullClock())]
        last = final[-1]
    assert last is not None
    exact = largest_difference(last, detect_window(method, window, config.T, config))
    assert_exact(exact, "what the stream finds in a window")
    stages = [{name: ms / count for name, ms in clock.take_ms().items()} for clock in clocks]
    return {
        "baseline": "faster-rcnn",
        "device": describe_device(device),
        "T": config.T,
        "K": config.K,
        "single_frame_ms": float(np.median(single_ms)),
        "stream_ms": float(np.median(stream_ms)),
        "ratio_to_single_frame": float(np.median(stream_ms) / np.median(single_ms)),
        "single_frame_stage_ms": stages[0],
        "stream_stage_ms": stages[1],
        "largest_difference_to_uncached": exact,
    }


def _fill(
    method: RDN, stream: RDNStream[Detections], images: Sequence[Image], config: RDNConfig
) -> list[FrameFeatures]:
    """Give the stream 2T + 1 frames, so that it is in its steady state; returns them, oldest first."""
    encoded = [method.encode(image, config, NullClock()) for image in images[:ENCODED_FRAMES]]
    window = [encoded[i % len(encoded)] for i in range(2 * config.T + 1)]
    for frame in window:
        stream.push_encoded(frame)
    return window


def _print(found: dict[str, Any], curves: Sequence[Growth]) -> None:
    single, stream = found["single_frame_stage_ms"], found["stream_stage_ms"]
    shown = Table("stage, ms a frame", "faster-rcnn", f"rdn, T = {found['T']}", title="streamed, batch 1")
    for stage in dict.fromkeys([*single, *stream]):
        shown.add_row(stage, *(f"{times[stage]:.1f}" if stage in times else "-" for times in (single, stream)))
    shown.add_row("end to end (median)", f"{found['single_frame_ms']:.1f}", f"{found['stream_ms']:.1f}")
    shared.console.print(shown)
    typer.echo(f"ratio to the single-frame detector: {found['ratio_to_single_frame']:.3f}")
    for curve in curves:
        typer.echo(curve.sentence())
