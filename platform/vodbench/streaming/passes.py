"""Streams of one configuration, or of several that share their work: what came out, and how long it took."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.spec import (
    Detections,
    EncodedStream,
    FrameEncoder,
    GuidedMethod,
    GuidedStream,
    Image,
    JointMethod,
    JointStream,
    Method,
    Stream,
    Truth,
)
from vodbench.timing.attribution import frame_costs
from vodbench.timing.clock import StageClock

StageTimes = dict[str, float]  # stage -> milliseconds


@dataclass(frozen=True, slots=True)
class SnippetResult:
    """What one configuration found; both lists have an entry a frame, in order."""

    detections: list[Detections]
    stage_ms: list[StageTimes]  # what ``close`` took is shared out among the frames as in ``frame_costs``


class Pass(Protocol):
    """A stream in use."""

    @property
    def configs(self) -> Sequence[MethodConfig]: ...

    @property
    def takes_encoded(self) -> bool: ...

    def push(self, image: Image) -> None: ...

    def push_encoded(self, encoded: Any, encoding_ms: StageTimes) -> None: ...

    def close(self) -> None: ...

    def results(self) -> list[SnippetResult]:
        """By configuration. ``AssertionError`` where the stream took more or fewer frames than it answered."""
        ...


def start_passes(
    method: Method,
    configs: Sequence[MethodConfig],
    device: torch.device | None,
    truth: Callable[[], Truth] | None,
) -> list[Pass]:
    """The passes of different configurations: together where the method offers that (``JointMethod``)."""
    joint: dict[Hashable, list[MethodConfig]] = {}
    for number, config in enumerate(configs):
        joint.setdefault(_joins(method, config) or number, []).append(config)
    passes: list[Pass] = []
    for members in joint.values():
        if len(members) > 1:
            assert isinstance(method, JointMethod)
            clock = StageClock(device)
            passes.append(_JointPass(method, members, method.joint_stream(members, clock), clock))
        else:
            passes.append(_single(method, members[0], device, truth))
    return passes


def _joins(method: Method, config: MethodConfig) -> Hashable | None:
    if not isinstance(method, JointMethod) or config.guided:
        return None
    answer = method.joins(config)
    return None if answer is None else (fingerprint(dict(method.encoding_settings(config))), answer)


def _single(
    method: Method, config: MethodConfig, device: torch.device | None, truth: Callable[[], Truth] | None
) -> _SinglePass:
    clock = StageClock(device)
    if truth is not None and isinstance(method, GuidedMethod) and config.guided:
        # Not timed: what it took to choose is not what the choice costs.
        stream: Stream = _Annotated(method.guided_stream(config), truth)
    else:
        stream = method.stream(config, clock)
    return _SinglePass(method, config, stream, clock)


class _Annotated:
    """A guided stream as a stream of images."""

    def __init__(self, stream: GuidedStream, truth: Callable[[], Truth]) -> None:
        self._stream, self._truth = stream, truth

    def push(self, image: Image) -> list[Detections]:
        return self._stream.push_annotated(image, self._truth())

    def close(self) -> list[Detections]:
        return self._stream.close()


class _SinglePass:
    """The stream of one configuration, and what came out of it so far."""

    def __init__(self, method: Method, config: MethodConfig, stream: Stream, clock: StageClock) -> None:
        self.configs = [config]
        self.takes_encoded = isinstance(method, FrameEncoder) and isinstance(stream, EncodedStream)
        self._name, self._stream, self._clock = type(method).__name__, stream, clock
        self._found: list[Detections] = []
        self._times = _Times()

    def push(self, image: Image) -> None:
        self._took(self._stream.push(image), {})

    def push_encoded(self, encoded: Any, encoding_ms: StageTimes) -> None:
        assert isinstance(self._stream, EncodedStream)
        self._took(self._stream.push_encoded(encoded), encoding_ms)

    def _took(self, final: Sequence[Detections], encoding_ms: StageTimes) -> None:
        self._found.extend(final)
        self._times.add(len(final), {**encoding_ms, **self._clock.take_ms()})

    def close(self) -> None:
        self._found.extend(self._stream.close())
        self._times.closing = self._clock.take_ms()

    def results(self) -> list[SnippetResult]:
        return [SnippetResult(self._found, self._times.by_frame(self._name, len(self._found)))]


class _JointPass:
    """The stream of several configurations. What they did together is shared out among them evenly."""

    takes_encoded = True

    def __init__(
        self, method: JointMethod, configs: Sequence[MethodConfig], stream: JointStream, clock: StageClock
    ) -> None:
        self.configs = configs
        self._name, self._stream, self._clock = type(method).__name__, stream, clock
        self._found: list[list[Detections]] = []  # by frame, then by configuration
        self._times = _Times()

    def push(self, image: Image) -> None:
        raise AssertionError("configurations go together by encoded frames")

    def push_encoded(self, encoded: Any, encoding_ms: StageTimes) -> None:
        final = self._stream.push_encoded(encoded)
        self._found.extend(final)
        self._times.add(len(final), {**encoding_ms, **self._taken()})

    def close(self) -> None:
        self._found.extend(self._stream.close())
        self._times.closing = self._taken()

    def _taken(self) -> StageTimes:
        return {name: ms / len(self.configs) for name, ms in self._clock.take_ms().items()}

    def results(self) -> list[SnippetResult]:
        times = self._times.by_frame(self._name, len(self._found))
        return [
            SnippetResult([frame[number] for frame in self._found], [dict(stages) for stages in times])
            for number in range(len(self.configs))
        ]


class _Times:
    """Stage times of each push and of ``close``, on their way to the frames."""

    def __init__(self) -> None:
        self._pushes: list[StageTimes] = []
        self._returned: list[int] = []
        self.closing: Mapping[str, float] = {}

    def add(self, returned: int, times: StageTimes) -> None:
        self._returned.append(returned)
        self._pushes.append(times)

    def by_frame(self, name: str, answered: int) -> list[StageTimes]:
        """Stage times a frame, with those of ``close`` distributed."""
        assert answered == len(self._returned), (
            f"{name}: its stream took {len(self._returned)} frames and returned detections of {answered}"
        )
        stages = dict.fromkeys(stage for times in (*self._pushes, self.closing) for stage in times)
        costs = {
            s: frame_costs([t.get(s, 0.0) for t in self._pushes], self._returned, self.closing.get(s, 0.0))
            for s in stages
        }
        return [{stage: float(costs[stage][i]) for stage in stages} for i in range(len(self._pushes))]
