"""Rates measured now: a few steps of each training stage and a few frames of each method, on this machine's device.

Made-up pictures of ImageNet VID's usual size (or of the study's data) and fresh weights do: what a step takes hardly
depends on what is seen. Not measured: what starts cost, and the driver; those are of a sweep that was run (``--from``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vodbench.device import describe_device, pick_device, synchronize
from vodbench.evaluation import evaluate
from vodbench.evaluation.synthetic import synthetic
from vodbench.features.entry import EntryWriter
from vodbench.features.sharing import shares_frames
from vodbench.knobs import MethodConfig
from vodbench.plan.costs import FrameRate, Rates, StageRate
from vodbench.plan.made_up import clips_of, picture, picture_size
from vodbench.plan.stages import work_of
from vodbench.registry import method_spec
from vodbench.spec import EncodedStream, FrameEncoder, Image, Method, Stage
from vodbench.studies import Study, method_spaces
from vodbench.timing.runtime import REPEATS
from vodbench.training.loop import StageTrainer

CLASSES = 30
TIMED_S = 5.0  # of steps or frames after the first, at least one of them
_SCORED = (20, 100, 100)  # snippets, frames of each, detections of each


@dataclass(frozen=True)
class Measured:
    """Of one step or frame. ``seconds``: None where only operations were counted."""

    seconds: float | None
    gflop: float


def probed(studies: Iterable[Study], on_progress: Callable[[str], None], *, timed: bool = True) -> Rates:
    """Rates of every stage and method of these studies; ``timed``: False counts operations only, which is quicker."""
    device = pick_device("auto")
    stages: dict[tuple[str, str, str], StageRate] = {}
    frames: dict[tuple[str, str], FrameRate] = {}
    for study in studies:
        size = picture_size(study)
        for planned in work_of(study).trainings.values():
            stage = planned.stage
            key = (stage.method, stage.name, str(stage.config.to_mapping().get("backbone")))
            if key not in stages:
                on_progress(f"training {stage.method}, {stage.name}")
                stages[key] = _stage_rate(stage, study.workers.training, size, device, timed)
        for space in method_spaces(study):
            name = (space.spec.name, str(space.base.to_mapping().get("backbone")))
            if name not in frames:
                on_progress(f"frames of {space.spec.name}")
                frames[name] = _frame_rate(space.spec.name, space.base, size, device, timed)
    on_progress("scoring")
    return Rates(
        device=describe_device(device),
        source=f"probed, {'times and operations' if timed else 'operations only'}; starts and driver not included",
        stages=tuple(stages.values()),
        frames=tuple(frames.values()),
        score_s=_score_s(),
        measure_passes=REPEATS + (device.type != "cpu"),  # the split by stage has a pass of its own there
    )


# ---- trainings ----------------------------------------------------------------------------------------------


def _stage_rate(stage: Stage, workers: int, size: tuple[int, int], device: torch.device, timed: bool) -> StageRate:
    """One worker's part of a batch, at least a whole group of clips."""
    group = stage.clips.group_size
    clips = max(group, stage.schedule.batch_size // workers // group * group)
    alone = dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, batch_size=clips))
    method = method_spec(stage.method).build(stage.config, CLASSES)
    trainer = StageTrainer(method, alone, device=device)
    drawn = clips_of(stage.clips, size, CLASSES)

    def step() -> None:
        trainer.run(drawn, until=trainer.iteration + 1)

    measured = _measured(step, device, timed)
    assert isinstance(method, torch.nn.Module)
    return StageRate(
        method=stage.method,
        stage=stage.name,
        settings=stage.config.training_settings(),
        clip_s=None if measured.seconds is None else measured.seconds / clips,
        clip_gflop=measured.gflop / clips,
        model_bytes=sum(value.nbytes for value in method.state_dict().values()),
        source=f"{clips} clips a step on {describe_device(device)}",
    )


# ---- frames -------------------------------------------------------------------------------------------------


def _frame_rate(name: str, config: MethodConfig, size: tuple[int, int], device: torch.device, timed: bool) -> FrameRate:
    method = method_spec(name).build(config, CLASSES)
    assert isinstance(method, torch.nn.Module)
    method.eval().to(device)
    image = picture(size, 0)
    with torch.inference_mode():
        if shares_frames(method, config):
            encode, own, kept = _shared(name, method, config, image, device, timed)
        else:
            encode, own, kept = (
                Measured(0.0 if timed else None, 0.0),
                _alone(name, method, config, size, device, timed),
                None,
            )
    seconds = None if encode.seconds is None or own.seconds is None else encode.seconds + own.seconds
    return FrameRate(
        method=name,
        settings=config.to_mapping(),
        encode_ms=None if encode.seconds is None else 1e3 * encode.seconds,
        own_ms=None if own.seconds is None else 1e3 * own.seconds,
        encode_gflop=encode.gflop,
        own_gflop=own.gflop,
        runtime_ms=None if seconds is None else 1e3 * seconds,
        feature_bytes=kept,
        source=f"{size[1]} x {size[0]} on {describe_device(device)}",
    )


def _shared(
    name: str, method: Method, config: MethodConfig, image: Image, device: torch.device, timed: bool
) -> tuple[Measured, Measured, float]:
    """(encoding, the rest with full windows, bytes of an encoded frame)."""
    assert isinstance(method, FrameEncoder)
    encode = _measured(lambda: method.encode(image, config), device, timed)
    encoded = method.encode(image, config)
    stream = method.stream(config)
    assert isinstance(stream, EncodedStream)
    for _ in range(_filling(name, config)):
        stream.push_encoded(encoded)
    written = _Counted()
    EntryWriter(written.write, {}, half=False).add(encoded, {})
    return encode, _measured(lambda: stream.push_encoded(encoded), device, timed), float(written.size)


def _alone(
    name: str, method: Method, config: MethodConfig, size: tuple[int, int], device: torch.device, timed: bool
) -> Measured:
    """A frame of a stream that takes images: the mean over whole intervals of key frames, where it has them."""
    images = [picture(size, seed) for seed in range(4)]
    stream = method.stream(config)
    for number in range(1 + _filling(name, config)):
        stream.push(images[number % 4])
    interval = int(config.to_mapping().get("key_frame_interval") or 10)

    def frames() -> None:
        for number in range(interval):
            stream.push(images[number % 4])

    measured = _measured(frames, device, timed)
    return Measured(None if measured.seconds is None else measured.seconds / interval, measured.gflop / interval)


def _filling(name: str, config: MethodConfig) -> int:
    """Frames until every window is full; none to speak of for a method that answers when the snippet has ended."""
    return 2 * (method_spec(name).latency_frames(config) or 0) + 1


class _Counted:
    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)


# ---- measuring ----------------------------------------------------------------------------------------------


def _measured(once: Callable[[], object], device: torch.device, timed: bool) -> Measured:
    """The first time counts operations and warms up; those after it are timed."""
    with FlopCounterMode(display=False) as counter:
        once()
    gflop = counter.get_total_flops() / 1e9
    if not timed:
        return Measured(None, gflop)
    synchronize(device)
    began, times = time.perf_counter(), 0
    while not times or time.perf_counter() - began < TIMED_S:
        once()
        synchronize(device)
        times += 1
    return Measured((time.perf_counter() - began) / times, gflop)


def _score_s() -> float:
    """Of scoring, a frame, with the default number of resamples."""
    snippets, frames, detections = _SCORED
    truth, found = synthetic(num_snippets=snippets, num_frames=frames, num_detections=detections)
    began = time.perf_counter()
    evaluate(truth, found, "ilsvrc", 1000)
    return (time.perf_counter() - began) / (snippets * frames)
