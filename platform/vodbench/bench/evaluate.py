"""``vodbench bench evaluate``: what scoring costs at the scale of ImageNet VID's validation set."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from vodbench.cli import shared
from vodbench.detections import DetectionSet
from vodbench.evaluation.bootstrap import bootstrap_map, interval
from vodbench.evaluation.matching import match
from vodbench.evaluation.motion import motion_ap
from vodbench.evaluation.overlap import Doubles
from vodbench.evaluation.precision import average_precision, mean_ap
from vodbench.evaluation.protocols import PROTOCOLS
from vodbench.evaluation.synthetic import synthetic
from vodbench.evaluation.truth import TruthSet

EPILOG = shared.example("vodbench bench evaluate --json", "vodbench bench evaluate --full --json")

NUM_SNIPPETS = 555  # of VID val: 176,126 frames
FRAMES_TENTH, FRAMES_FULL = 32, 317  # a snippet
DETECTIONS = 100  # a frame
RESAMPLES = 1000
PYCOCOTOOLS_SNIPPETS = 55  # a hundredth of VID val: pycocotools takes seconds even there

REPEATS = 3

T = TypeVar("T")


def command(
    full: Annotated[bool, typer.Option(help="Also the whole of VID val's scale (2 GB, about a minute).")] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Time mAP, motion and bootstrap on synthetic detections; check and time pycocotools beside it."""
    shared.announce("bench evaluate", config={"full": full, "detections": DETECTIONS}, seed=seed, device=_device())
    with shared.console.status("a tenth of VID val"):
        figures = _scale(FRAMES_TENTH, seed, "_tenth_vid")
        figures["bootstrap_seconds"] = figures.pop("bootstrap_seconds_tenth_vid")
    with shared.console.status("pycocotools"):
        figures |= _against_pycocotools(seed)
    if full:
        with shared.console.status("the whole of VID val"):
            figures |= _scale(FRAMES_FULL, seed, "_full_vid", repeats=1)
            figures["peak_memory_mb_full_vid"] = peak_memory_mb()
    if json:
        return shared.print_json(figures)
    for name, value in figures.items():
        typer.echo(f"{name:32} {value:,.3f}" if isinstance(value, float) else f"{name:32} {value:,}")
    return None


def _scale(num_frames: int, seed: int, suffix: str, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds of mAP (matching and all classes), of the motion table and of the bootstrap, ``ilsvrc``."""
    truth, detections = synthetic(
        num_snippets=NUM_SNIPPETS, num_frames=num_frames, num_detections=DETECTIONS, seed=seed
    )
    matching, match_seconds = timed(lambda: match(truth, detections, PROTOCOLS["ilsvrc"]), repeats=repeats)
    ap, ap_seconds = timed(lambda: average_precision(matching), repeats=repeats)
    _, motion_seconds = timed(lambda: motion_ap(matching), repeats=repeats)
    samples, bootstrap_seconds = timed(lambda: bootstrap_map(matching, RESAMPLES, seed), repeats=repeats)
    low, high = interval(samples)
    return {
        f"frames{suffix}": len(truth),
        f"map{suffix}": mean_ap(ap),
        f"interval_width{suffix}": high - low,
        f"seconds{suffix}": match_seconds + ap_seconds,
        f"motion_seconds{suffix}": motion_seconds,
        f"bootstrap_seconds{suffix}": bootstrap_seconds,
    }


def _against_pycocotools(seed: int) -> dict[str, Any]:
    """The protocol "coco" on the same input: pycocotools' seconds over ours, its AP checked equal to ours."""
    truth, detections = synthetic(
        num_snippets=PYCOCOTOOLS_SNIPPETS, num_frames=FRAMES_TENTH, num_detections=DETECTIONS, seed=seed
    )
    # Processor time on both sides: pycocotools runs once and long, and a busy machine must not change the ratio.
    ap, seconds = timed(lambda: average_precision(match(truth, detections, PROTOCOLS["coco"])), time.process_time)
    theirs, their_seconds = pycocotools_ap(truth, detections)
    worst = float(np.nanmax(np.abs(ap - theirs)))
    if not np.array_equal(np.isnan(ap), np.isnan(theirs)) or worst > 1e-9:
        raise RuntimeError(f"AP differs from pycocotools' by {worst}; the speed of a wrong result means nothing")
    return {
        "frames_pycocotools": len(truth),
        "pycocotools_seconds": their_seconds,
        "coco_seconds": seconds,
        "speedup_over_pycocotools": their_seconds / seconds,
        "largest_ap_difference_to_pycocotools": worst,
    }


def pycocotools_ap(truth: TruthSet, detections: DetectionSet) -> tuple[Doubles, float]:
    """((thresholds, C) AP of pycocotools, processor seconds without loading); one area range, as ours."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotated, found = COCO(), COCO()
        images = [{"id": f} for f in range(len(truth))]
        categories = [{"id": n} for n in range(1, len(truth.classes) + 1)]
        annotated.dataset = {"images": images, "categories": categories, "annotations": _records(truth, None)}
        annotated.createIndex()
        records = _records(detections, detections.scores)
        found.dataset = {"images": images, "categories": categories, "annotations": records}
        found.createIndex()
        judge = COCOeval(annotated, found, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [100]
        started = time.process_time()
        judge.evaluate()
        judge.accumulate()
        seconds = time.process_time() - started
    precision = judge.eval["precision"][:, :, :, 0, 0]  # (thresholds, recalls, classes); -1: no ground truth
    ap = precision.mean(axis=1)
    return np.where(precision[:, 0] < 0, np.nan, ap), seconds


def _records(boxes: TruthSet | DetectionSet, scores: Any) -> list[dict[str, Any]]:
    corner, sides = boxes.boxes[:, :2].astype(float), boxes.boxes[:, 2:].astype(float) - boxes.boxes[:, :2]
    image = np.repeat(np.arange(len(boxes)), np.diff(boxes.offsets)).tolist()
    rows = np.concatenate([corner, sides], axis=1).tolist()
    values = [1.0] * len(rows) if scores is None else scores.tolist()
    crowd = np.asarray(getattr(boxes, "crowd", np.zeros(len(rows)))).astype(int).tolist()
    return [
        {"id": n + 1, "image_id": i, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": k, "score": s}
        for n, (i, c, b, k, s) in enumerate(zip(image, boxes.labels.tolist(), rows, crowd, values, strict=True))
    ]


def timed(
    work: Callable[[], T], clock: Callable[[], float] = time.perf_counter, repeats: int = REPEATS
) -> tuple[T, float]:
    """(result, seconds): the best of some, because whatever else the machine does only ever adds."""
    seconds = []
    for _ in range(repeats):
        started = clock()
        result = work()
        seconds.append(clock() - started)
    return result, min(seconds)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _device() -> str:
    return f"cpu, {os.cpu_count()} cores"
