"""What one training step and one streamed frame take: operations always, seconds where they are wanted.

Operations are counted on hollow tensors (``vodbench.plan.hollow``), seconds are taken on the device. Pictures are made
up and weights fresh: what a step takes hardly depends on what is seen, but for methods that choose their work by it
(adaptive key frames, partial updates): those are measured at their most.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from vodbench.device import describe_device, synchronize
from vodbench.features.entry import EntryWriter
from vodbench.features.sharing import shares_frames
from vodbench.knobs import MethodConfig
from vodbench.plan.costs import FrameRate, StageRate
from vodbench.plan.hollow import Hollow, operations
from vodbench.plan.made_up import clips_of, picture
from vodbench.registry import method_spec
from vodbench.spec import EncodedStream, FrameEncoder, GuidedMethod, Image, Method, Stage, Truth
from vodbench.training.loop import StageTrainer

CLASSES = 30
TIMED_S = 5.0  # of steps or frames after the first, at least one of them
CPU = torch.device("cpu")
Size = tuple[int, int]  # height, width of the pictures


# ---- a training step ----------------------------------------------------------------------------------------


def counted_stage(stage: Stage, workers: int, size: Size) -> StageRate:
    """Operations of one worker's part of a batch, at least a whole group of clips."""
    with Hollow():
        clips, trainer, step = _step(stage, workers, size, CPU)
    return StageRate(
        method=stage.method,
        stage=stage.name,
        settings=stage.config.training_settings(),
        clip_gflop=operations(step) / clips,
        model_bytes=sum(value.nbytes for value in trainer.module.state_dict().values()),
        source=f"{clips} clips a step",
    )


def timed_stage(rate: StageRate, stage: Stage, workers: int, size: Size, device: torch.device) -> StageRate:
    """The same with its seconds on the device."""
    clips, _, step = _step(stage, workers, size, device)
    source = f"{rate.source} on {describe_device(device)}"
    return rate.model_copy(update={"clip_s": seconds_of(step, device) / clips, "source": source})


def _step(
    stage: Stage, workers: int, size: Size, device: torch.device
) -> tuple[int, StageTrainer, Callable[[], object]]:
    """(clips a step, the trainer, one step)."""
    group = stage.clips.group_size
    clips = max(group, stage.schedule.batch_size // workers // group * group)
    alone = dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, batch_size=clips))
    trainer = StageTrainer(method_spec(stage.method).build(stage.config, CLASSES), alone, device=device)
    drawn = clips_of(stage.clips, size, CLASSES)
    return clips, trainer, lambda: trainer.run(drawn, until=trainer.iteration + 1)


# ---- a streamed frame ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """``encode``: None where frames cannot be shared; ``rest`` is ``frames`` frames then, and one else."""

    encode: Callable[[], object] | None
    rest: Callable[[], object]
    frames: int = 1
    feature_bytes: float | None = None


def counted_frame(name: str, config: MethodConfig, size: Size) -> FrameRate:
    """Operations of a frame with full windows: the mean over a whole interval of key frames, where it has them."""
    with Hollow():
        method = _built(name, config, CPU)
    with torch.inference_mode():
        with Hollow():
            frame = _frame(name, method, config, size)
        return FrameRate(
            method=name,
            settings=config.to_mapping(),
            encode_gflop=0.0 if frame.encode is None else operations(frame.encode),
            own_gflop=operations(frame.rest) / frame.frames,
            feature_bytes=frame.feature_bytes,
            source=f"{size[1]} x {size[0]}",
        )


def timed_frame(rate: FrameRate, config: MethodConfig, size: Size, device: torch.device) -> FrameRate:
    """The same with its seconds on the device."""
    method = _built(rate.method, config, device)
    with torch.inference_mode():
        frame = _frame(rate.method, method, config, size)
        encode_ms = 0.0 if frame.encode is None else 1e3 * seconds_of(frame.encode, device)
        own_ms = 1e3 * seconds_of(frame.rest, device) / frame.frames
    times = {"encode_ms": encode_ms, "own_ms": own_ms, "runtime_ms": encode_ms + own_ms}
    return rate.model_copy(update={**times, "source": f"{rate.source} on {describe_device(device)}"})


def _built(name: str, config: MethodConfig, device: torch.device) -> Method:
    method = method_spec(name).build(config, CLASSES)
    assert isinstance(method, torch.nn.Module)
    method.eval().to(device)
    return method


def _frame(name: str, method: Method, config: MethodConfig, size: Size) -> _Frame:
    """With full windows."""
    return _shared(name, method, config, size) if shares_frames(method, config) else _alone(name, method, config, size)


def _alone(name: str, method: Method, config: MethodConfig, size: Size) -> _Frame:
    """Of a stream that takes images; one that looks at annotations is shown none."""
    images = [picture(size, seed) for seed in range(4)]
    interval = int(config.to_mapping().get("key_frame_interval") or 1)
    push: Callable[[Image], object]
    if isinstance(method, GuidedMethod) and config.guided:
        push = partial(method.guided_stream(config).push_annotated, truth=Truth.empty())
    else:
        push = method.stream(config).push
    for number in range(1 + _filling(name, config)):
        push(images[number % 4])
    return _Frame(encode=None, rest=lambda: [push(images[n % 4]) for n in range(interval)], frames=interval)


def _shared(name: str, method: Method, config: MethodConfig, size: Size) -> _Frame:
    """Of a stream that takes encoded frames."""
    assert isinstance(method, FrameEncoder)
    stream = method.stream(config)
    assert isinstance(stream, EncodedStream)
    image = picture(size, 0)
    encoded = method.encode(image, config)
    for _ in range(_filling(name, config)):
        stream.push_encoded(encoded)
    written = _Counted()
    EntryWriter(written.write, {}, half=False).add(encoded, {})
    return _Frame(
        encode=lambda: method.encode(image, config),
        rest=lambda: stream.push_encoded(encoded),
        feature_bytes=float(written.size),
    )


def _filling(name: str, config: MethodConfig) -> int:
    """Frames until every window is full; none to speak of for a method that answers when the snippet has ended."""
    return 2 * (method_spec(name).latency_frames(config) or 0) + 1


class _Counted:
    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)


# ---- seconds ------------------------------------------------------------------------------------------------


def seconds_of(once: Callable[[], object], device: torch.device) -> float:
    """The mean of several calls, after one that warms up."""
    once()
    synchronize(device)
    began, times = time.perf_counter(), 0
    while not times or time.perf_counter() - began < TIMED_S:
        once()
        synchronize(device)
        times += 1
    return (time.perf_counter() - began) / times
