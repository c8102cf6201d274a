"""``vodbench bench flow``: what propagating features saves beside computing them for every frame."""

from __future__ import annotations

from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from rich.table import Table

from vodbench.bench.runtime import MadeUpFrames
from vodbench.cli import shared
from vodbench.device import describe_device, pick_device
from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.timing.clock import StageClock, torch_threads
from vodbench_methods.detection.measure import timed
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.fgfa.bench import cache_speedup
from vodbench_methods.fgfa.config import FGFAConfig
from vodbench_methods.propagation.config import DETECTORS, KeyFrameConfig
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.thp.bench import PartialSavings, partial_savings

EPILOG = shared.example(
    "vodbench bench flow --preset tiny --json",
    "vodbench bench flow --preset paper --part dff --part partial --json",
)

NUM_CLASSES = 30
SEED = 0
PARTS = ("dff", "partial", "fgfa")
BETWEEN = ("flow", "warp")  # the stages that take the backbone's place in a frame that is no key frame


def command(
    preset: Annotated[str, typer.Option(help="Configuration of all methods: paper, small, tiny.")] = "tiny",
    interval: Annotated[int, typer.Option(help="Frames from key frame to key frame (DFF).")] = 10,
    part: Annotated[list[str] | None, typer.Option(help="dff, partial or fgfa; may be repeated. Default: all.")] = None,
    window: Annotated[int | None, typer.Option(help="FGFA's frames on each side; default: the preset's.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds of everything that is timed.")] = 3,
    threads: Annotated[int, typer.Option(help="Torch threads on a CPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time DFF against its detector on every frame, partial updating against whole frames, FGFA against its window.

    Weights are random, frames made up; which frames are key frames and what is updated does not depend on either.
    What is faster but not the same to single precision is an error, not a figure.
    """
    parts = _checked(part, {"interval": interval, "repeats": repeats, "threads": threads, "window": window})
    place = pick_device(device)
    dff = _config("dff", preset, key_frame_interval=interval)
    assert isinstance(dff, KeyFrameConfig)
    shared.announce(
        "bench flow",
        config={"preset": preset, "size": dff.short_side, "interval": interval, "threads": threads},
        seed=SEED,
        device=describe_device(place),
    )
    found: dict[str, Any] = {"device": describe_device(place), "preset": preset}
    with torch_threads(threads), shared.console.status("streaming"):
        if "dff" in parts:
            found |= propagation_speedup(dff, place, repeats)
        if "partial" in parts:
            found |= _partial(dff, place, repeats)
        if "fgfa" in parts:
            fgfa = _config("fgfa", preset, **({} if window is None else {"T": window}))
            assert isinstance(fgfa, FGFAConfig)
            found |= {f"fgfa_{k.removeprefix('fgfa_')}": v for k, v in cache_speedup(fgfa, place, repeats).items()}
    if json:
        shared.print_json(found)
    else:
        _print(found)


def _checked(part: list[str] | None, numbers: dict[str, int | None]) -> tuple[str, ...]:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is not accepted: an integer in [1, inf)")
    for name in part or ():
        if name not in PARTS:
            raise unknown("part of bench flow", name, PARTS)
    return tuple(part) if part else PARTS


def _config(method: str, preset: str, **knobs: Any) -> MethodConfig:
    spec = method_spec(method)
    if preset not in spec.presets:
        raise unknown(f"preset of {method}", preset, spec.presets)
    return spec.config.from_mapping({**spec.presets[preset], **knobs})


def propagation_speedup(config: KeyFrameConfig, device: torch.device, repeats: int) -> dict[str, Any]:
    """One interval of frames, a key frame first, with DFF and with its detector alone, in turns, ``repeats`` times.

    ``dff_speedup``: medians of a frame's mean time over the interval; ``flow_share``: flow and warp of a frame that is
    no key frame, against the backbone of one that is.
    """
    torch.manual_seed(SEED)
    method = FlowDetector(config, NUM_CLASSES).eval().to(device)
    count = config.key_frame_interval
    sample = MadeUpFrames(1, count, config.short_side)
    images = list(sample.images(sample.snippets[0]))
    clock = StageClock(device)

    def propagated() -> None:
        stream = method.stream(clock=clock)
        for image in images:
            stream.push(image)

    alone = method.detector.stream(_every_frame(method.detector))

    def every_frame() -> None:
        for image in images:
            alone.push(image)

    method.stream().push(images[0])  # first calls are slow
    clock.take_ms()
    propagated_ms, alone_ms = [], []
    for _ in range(repeats):
        propagated_ms.append(timed(propagated, device)[0] / count)
        alone_ms.append(timed(every_frame, device)[0] / count)
    stages = clock.take_ms()
    backbone_ms = stages["backbone"] / repeats
    between_ms = sum(stages.get(name, 0.0) for name in BETWEEN) / (repeats * max(count - 1, 1))
    return {
        "key_frame_interval": count,
        "per_frame_ms": float(np.median(alone_ms)),
        "dff_ms": float(np.median(propagated_ms)),
        "dff_speedup": float(np.median(alone_ms) / np.median(propagated_ms)),
        "backbone_ms": backbone_ms,
        "flow_and_warp_ms": between_ms,
        "flow_share": between_ms / backbone_ms,
    }


def _every_frame(detector: SingleFrameDetector) -> Any:
    config = detector.config
    return config.replace(key_frame_interval=1) if "key_frame_interval" in config.knobs() else config


def _partial(config: KeyFrameConfig, device: torch.device, repeats: int) -> dict[str, Any]:
    """``partial_saved_over_ideal`` of the shares of a frame that are computed anew, in percent."""
    torch.manual_seed(SEED)
    spec = DETECTORS[config.detector]
    detector = cast(SingleFrameDetector, spec.build(narrowed(config, spec.config), NUM_CLASSES)).eval().to(device)
    sample = MadeUpFrames(1, 2, config.short_side)
    savings: PartialSavings = partial_savings(detector, list(sample.images(sample.snippets[0])), repeats=repeats)
    by_percent = {f"{100 * saving.share:.0f}": saving for saving in savings.savings}
    return {
        "partial_whole_ms": savings.whole_ms,
        "partial_keeping_ms": savings.keeping_ms,
        "partial_ideal": {percent: saving.ideal for percent, saving in by_percent.items()},
        "partial_measured": {percent: saving.measured for percent, saving in by_percent.items()},
        "partial_saved_over_ideal": {percent: saving.measured_over_ideal for percent, saving in by_percent.items()},
        "partial_largest_difference": max(saving.difference for saving in savings.savings),
    }


def _print(found: dict[str, Any]) -> None:
    if "dff_speedup" in found:
        typer.echo(
            f"DFF, interval {found['key_frame_interval']}: {found['dff_ms']:.1f} ms a frame, its detector on every "
            f"frame {found['per_frame_ms']:.1f}: {found['dff_speedup']:.2f} times as fast"
        )
        typer.echo(f"flow and warp {found['flow_and_warp_ms']:.1f} ms, {found['flow_share']:.1%} of the backbone")
    if "partial_measured" in found:
        shown = Table("computed anew", "saved, ideal", "saved, measured", "measured / ideal", title="partial updating")
        for percent, ideal in found["partial_ideal"].items():
            measured, ratio = found["partial_measured"][percent], found["partial_saved_over_ideal"][percent]
            shown.add_row(f"{percent}%", f"{ideal:.1%}", f"{measured:.1%}", f"{ratio:.2f}")
        shared.console.print(shown)
        typer.echo(
            f"whole frame {found['partial_whole_ms']:.1f} ms; a key frame that can be updated costs "
            f"{found['partial_keeping_ms']:.1f} ms more"
        )
    if "fgfa_cache_speedup" in found:
        typer.echo(
            f"FGFA, T = {found['fgfa_T']}: {found['fgfa_stream_ms']:.1f} ms a frame, its window from scratch "
            f"{found['fgfa_window_ms']:.1f}: {found['fgfa_cache_speedup']:.2f} times as fast"
        )
