"""``vodbench bench sweep``: what a sweep of many settings costs, and what the platform adds to a trial."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from vodbench.cli import shared
from vodbench.device import describe_device, pick_device
from vodbench.errors import UserError, unknown
from vodbench.registry import method_spec
from vodbench.timing.clock import torch_threads
from vodbench.timing.contention import MAX_PRESSURE, PressureWatch

EPILOG = shared.example(
    "vodbench bench sweep --json",
    "vodbench bench sweep --preset tiny --size 128 --frames 36 --distinct 0 --one-by-one",
)

START = 4  # trials of the sweep whose time is taken off: what a sweep costs before its trials


def command(
    preset: Annotated[str, typer.Option(help="Configuration of RDN: paper, small, tiny.")] = "paper",
    size: Annotated[int, typer.Option(help="Shorter side of the frames; the longer is 5/3 of it.")] = 600,
    frames: Annotated[int, typer.Option(help="Frames of the snippet; windows are full from 2T + 1 on.")] = 49,
    distinct: Annotated[
        int, typer.Option(help="Distinct frames, each encoded once a pass and counted as often as it comes; 0: all.")
    ] = 3,
    one_by_one: Annotated[bool, typer.Option(help="Also the settings one by one, through a cache.")] = False,
    trials: Annotated[int, typer.Option(help="Empty trials that are timed; 0: none.")] = 300,
    repeats: Annotated[int, typer.Option(help="How often, the best counts.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Cost of the 24 inference settings of RDN's Tables 4, 6 and 7 in evaluations of one; overhead of empty trials.

    Settings: detection and scoring with random weights on a made-up snippet, in processor time; minutes at the paper's
    size. (Of a tiny network there is little to share: a setting costs what Python and the scoring cost.)
    Trials: the time that one more takes here and in bare Ray Tune, both one at a time in a process that is used again.
    """
    for name, value, low in (
        ("size", size, 32),
        ("frames", frames, 3),
        ("distinct", distinct, 0),
        ("trials", trials, 0),
        ("repeats", repeats, 1),
    ):
        if value < low:
            raise UserError(f"--{name} {value} is not accepted: an integer in [{low}, inf)")
    if preset not in (presets := method_spec("rdn").presets):
        raise unknown("preset of rdn", preset, presets)
    place = pick_device(device)
    shared.announce(
        "bench sweep",
        config={"preset": preset, "size": size, "frames": frames, "trials": trials},
        seed=0,
        device=describe_device(place),
    )
    # What these import takes seconds: not for --help.
    from vodbench.bench.many_settings import measure_settings

    with torch_threads(1), shared.console.status("settings") as status:
        figures: dict[str, Any] = measure_settings(
            preset, size, frames, place, status.update, distinct=distinct or None, one_by_one=one_by_one
        ).figures()
    if trials:
        with shared.console.status("empty trials"):
            figures |= _overhead(trials, repeats)
    if json:
        return shared.print_json(figures)
    for name, value in figures.items():
        typer.echo(f"{name:38} {value:,.3f}" if isinstance(value, float) else f"{name:38} {value}")
    return None


def _overhead(trials: int, repeats: int) -> dict[str, Any]:
    """Seconds of one more empty trial here and in Ray Tune, and their ratio."""
    from vodbench.bench.empty_trials import platform_seconds, tune_seconds
    from vodbench.cluster import start_ray

    start_ray()
    pressure = PressureWatch()
    ours, bare = [], []
    with tempfile.TemporaryDirectory(prefix="vodbench-bench-") as folder:
        for turn in range(repeats):  # in turns: what disturbs one disturbs the other
            for number in (START, START + trials):
                place = Path(folder, f"{turn}-{number}")
                bare.append(tune_seconds(number, place / "bare"))
                ours.append(platform_seconds(number, place / "ours"))
    (start, end), (bare_start, bare_end) = ((min(s[::2]), min(s[1::2])) for s in (ours, bare))
    one, bare_one = (end - start) / trials, (bare_end - bare_start) / trials
    share = pressure.share()
    return {
        "empty_trial_seconds": one,
        "bare_tune_trial_seconds": bare_one,
        "overhead_over_bare_tune": one / bare_one,
        "sweep_start_seconds": start - START * one,
        "contended": share is not None and share >= MAX_PRESSURE,
    }
