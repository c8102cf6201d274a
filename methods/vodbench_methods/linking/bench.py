"""``vodbench bench linking``: what linking a snippet costs, beside plain-Python readings in the same run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from rich.table import Table

from vodbench.bench.evaluate import timed
from vodbench.cli import shared
from vodbench.errors import UserError
from vodbench_methods.linking.chains import seq_nms
from vodbench_methods.linking.records import FrameBoxes, Linked
from vodbench_methods.linking.reference import plain_blr, plain_seq_nms, plain_tube
from vodbench_methods.linking.synthetic import synthetic_snippet
from vodbench_methods.linking.tubes import blr, tube

EPILOG = shared.example("vodbench bench linking --json", "vodbench bench linking --frames 60 --detections 300")

Way: TypeAlias = Callable[[Sequence[FrameBoxes]], list[Linked]]

WAYS: dict[str, tuple[Way, Way]] = {
    "seq_nms": (seq_nms, plain_seq_nms),
    "tube": (tube, plain_tube),
    "blr": (blr, plain_blr),
}

# exp() of NumPy's vectors and of its scalars may differ in the last bit; sums of a few hundred edges follow.
TOLERANCE = 1e-9


def command(
    frames: Annotated[int, typer.Option(help="Frames of the snippet.")] = 300,
    detections: Annotated[int, typer.Option(help="Boxes a frame, over all classes.")] = 100,
    classes: Annotated[int, typer.Option(help="Classes.")] = 5,
    lent: Annotated[int, typer.Option(help="Proposals a frame lends to its neighbours, K.")] = 75,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time Seq-NMS, tubes and box linking with relations on tracks and clutter; check and time plain Python beside.

    Processor seconds of one thread on both sides: the best of three, and one run of the plain reading, whose time
    grows with the square of the frames for Seq-NMS.
    """
    for name, value in (("frames", frames), ("detections", detections), ("classes", classes), ("lent", lent)):
        if value < 1:
            raise UserError(f"--{name} {value} is not accepted: an integer in [1, inf)")
    config = {"frames": frames, "detections": detections, "classes": classes, "lent": lent}
    shared.announce("bench linking", config=config, seed=seed, device=f"cpu, {os.cpu_count()} cores")
    snippet = synthetic_snippet(num_frames=frames, num_boxes=detections, num_classes=classes, num_lent=lent, seed=seed)
    figures: dict[str, Any] = dict(config)
    with shared.progress() as bar:
        task = bar.add_task("linking", total=len(WAYS))
        for name, (fast, plain) in WAYS.items():
            bar.update(task, description=name)
            figures |= _figures(name, fast, plain, snippet)
            bar.advance(task)
    if json:
        return shared.print_json(figures)
    _print(figures)
    return None


def _figures(name: str, fast: Way, plain: Way, snippet: Sequence[FrameBoxes]) -> dict[str, Any]:
    linked, seconds = timed(lambda: fast(snippet), time.process_time)
    expected, plain_seconds = timed(lambda: plain(snippet), time.process_time, repeats=1)
    worst = largest_difference(linked, expected)
    if worst > TOLERANCE:
        raise RuntimeError(
            f"{name} differs from its plain reading by {worst}; the speed of a wrong result means nothing"
        )
    return {
        f"{name}_seconds": seconds,
        f"{name}_plain_seconds": plain_seconds,
        f"{name}_speedup": plain_seconds / seconds,
        f"{name}_largest_score_difference": worst,
        f"{name}_boxes_kept": sum(len(frame.rows) for frame in linked),
        f"{name}_paths": len({n for frame in linked for n in frame.path.tolist() if n >= 0}),
    }


def largest_difference(linked: Sequence[Linked], expected: Sequence[Linked]) -> float:
    """Of any box's scores; infinite where other boxes stayed."""
    worst = 0.0
    for ours, theirs in zip(linked, expected, strict=True):
        if not np.array_equal(ours.rows, theirs.rows):
            return float("inf")
        worst = max(worst, float(np.abs(ours.scores - theirs.scores).max(initial=0.0)))
    return worst


def _print(figures: dict[str, Any]) -> None:
    shown = Table("linking", "seconds", "plain Python, s", "speedup", "boxes kept", "paths", title="a snippet")
    for name in WAYS:
        shown.add_row(
            name.replace("_", "-"),
            f"{figures[f'{name}_seconds']:.3f}",
            f"{figures[f'{name}_plain_seconds']:.2f}",
            f"{figures[f'{name}_speedup']:.1f}",
            f"{figures[f'{name}_boxes_kept']:,}",
            f"{figures[f'{name}_paths']:,}",
        )
    shared.console.print(shown)
