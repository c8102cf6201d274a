"""Rates measured now: a few steps of each training stage and a few frames of each method, on this machine's device.

Every stage and setting of a study is counted, which is quick. Those that another one tells within ``WITHIN`` are left
out, so that seconds are taken of few, and a file of rates stays short. Not measured: what starts cost, and the driver;
those are of a sweep that was run (``--from``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from vodbench.device import describe_device, pick_device
from vodbench.evaluation import evaluate
from vodbench.evaluation.synthetic import synthetic
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.plan.costs import FrameRate, Rates, StageRate, most_similar
from vodbench.plan.made_up import picture_size
from vodbench.plan.measured import Size, counted_frame, counted_stage, timed_frame, timed_stage
from vodbench.plan.stages import work_of
from vodbench.spec import Stage
from vodbench.studies import Study
from vodbench.timing.runtime import REPEATS

WITHIN = 0.02  # of a stage's or frame's operations
_SCORED = (20, 100, 100)  # snippets, frames of each, detections of each


def probed(studies: Iterable[Study], on_progress: Callable[[str], None], *, timed: bool = True) -> Rates:
    """Rates of every stage and method of these studies; ``timed``: False counts operations only, which is quicker."""
    device = pick_device("auto")
    stages: list[StageRate] = []
    frames: list[FrameRate] = []
    for (stage, workers), size in _stages(studies):
        on_progress(f"training {stage.method}, {stage.name}")
        counted = counted_stage(stage, workers, size)
        alike = [rate for rate in stages if (rate.method, rate.stage) == (stage.method, stage.name)]
        if not _told(alike, counted, stage.config):
            stages.append(timed_stage(counted, stage, workers, size, device) if timed else counted)
    for (method, config), size in _frames(studies):
        on_progress(f"frames of {method}")
        streamed = counted_frame(method, config, size)
        if not _told([rate for rate in frames if rate.method == method], streamed, config):
            frames.append(timed_frame(streamed, config, size, device) if timed else streamed)
    on_progress("scoring")
    return Rates(
        device=describe_device(device) if timed else "operations only",
        source=f"probed, {'times and operations' if timed else 'operations only'}; starts and driver not included",
        stages=tuple(_distinct(stages, lambda rate: (rate.method, rate.stage))),
        frames=tuple(_distinct(frames, lambda rate: rate.method)),
        score_s=_score_s(),
        # The split by stage has a pass of its own on an accelerator, which counted operations are for.
        measure_passes=REPEATS + (device.type != "cpu" or not timed),
    )


# ---- what there is to measure -------------------------------------------------------------------------------


def _stages(studies: Iterable[Study]) -> Iterator[tuple[tuple[Stage, int], Size]]:
    """Each once, whatever seed and study it is of."""
    seen = set()
    for study in studies:
        size, workers = picture_size(study), study.workers.training
        for planned in work_of(study).trainings.values():
            stage = planned.stage
            key = (stage.method, stage.name, size, workers, fingerprint(stage.config.training_settings()))
            if key not in seen:
                seen.add(key)
                yield (stage, workers), size


def _frames(studies: Iterable[Study]) -> Iterator[tuple[tuple[str, MethodConfig], Size]]:
    """Each setting once."""
    seen = set()
    for study in studies:
        size = picture_size(study)
        for job in (trial.job for trial in work_of(study).trials):
            key = (job.method, size, fingerprint(job.config.to_mapping()))
            if key not in seen:
                seen.add(key)
                yield (job.method, job.config), size


_R = TypeVar("_R", StageRate, FrameRate)


def _told(known: list[_R], counted: _R, config: MethodConfig) -> bool:
    """Whether the most similar rate that is known already says about the same."""
    if not known:
        return False
    other, wanted = _gflop(most_similar(known, config, lambda rate: rate.settings)), _gflop(counted)
    return abs(other - wanted) <= WITHIN * wanted


def _gflop(rate: StageRate | FrameRate) -> float:
    if isinstance(rate, StageRate):
        return rate.clip_gflop or 0.0
    return (rate.encode_gflop or 0.0) + (rate.own_gflop or 0.0)


def _distinct(rates: list[_R], group: Callable[[_R], object]) -> Iterator[_R]:
    """With those settings only that tell the rates of a group apart; which one is the most similar stays the same."""
    for rate in rates:
        others = [other.settings for other in rates if group(other) == group(rate)]
        yield rate.model_copy(update={"settings": _varying(rate.settings, others)})


def _varying(settings: Mapping[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if any(other.get(name) != value for other in others)}


# ---- scoring ------------------------------------------------------------------------------------------------


def _score_s() -> float:
    """Of scoring, a frame, with the default number of resamples."""
    snippets, frames, detections = _SCORED
    truth, found = synthetic(num_snippets=snippets, num_frames=frames, num_detections=detections)
    began = time.perf_counter()
    evaluate(truth, found, "ilsvrc", 1000)
    return (time.perf_counter() - began) / (snippets * frames)
