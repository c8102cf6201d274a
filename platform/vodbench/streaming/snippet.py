"""One snippet through a method, with one configuration or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vodbench.errors import UserError
from vodbench.features.sharing import KeptFeatures
from vodbench.fingerprint import fingerprint
from vodbench.knobs import MethodConfig
from vodbench.spec import (
    Detections,
    EncodedStream,
    FrameEncoder,
    GuidedMethod,
    GuidedStream,
    Image,
    Method,
    Stream,
    Truth,
)
from vodbench.timing.attribution import frame_costs
from vodbench.timing.clock import StageClock

StageTimes = dict[str, float]  # stage -> milliseconds


class SnippetError(RuntimeError):
    """A method failed on a frame; the message names the snippet and the frame."""


@dataclass(frozen=True, slots=True)
class SnippetResult:
    """What one configuration found; both lists have an entry a frame, in order."""

    detections: list[Detections]
    stage_ms: list[StageTimes]  # what ``close`` took is shared out among the frames as in ``frame_costs``


def detect_snippet(
    method: Method,
    configs: Sequence[MethodConfig],
    images: Iterable[Image],
    device: torch.device | None = None,
    truth: Callable[[], Truth] | None = None,
    kept: KeptFeatures | None = None,
) -> list[SnippetResult]:
    """Stream one snippet, once for all configurations: each gets what it would get alone.

    Where the method is a ``FrameEncoder``, configurations that agree in ``encoding_settings`` share one encoding of
    every frame; its time counts for each of them in full, as if it were alone. An encoding in ``kept`` is taken from
    there, with the time it took when it was made; others are put there.

    Args:
        method: in evaluation mode, on ``device``.
        configs: may differ from the method's own in inference knobs.
        images: (H, W, 3) uint8 RGB, in order; drawn one at a time, and not at all where every encoding is kept.
        truth: the annotation of the image drawn last, for configurations that look at it (``GuidedMethod``).

    Raises:
        SnippetError: from what the method raised, naming the frame it was given last.
        AssertionError: a stream returned more or fewer frames than it took.
    """
    where = "before the first frame"
    taken = 0
    with torch.inference_mode(), ExitStack() as stack:
        try:
            passes = [_started(method, config, device, truth) for config in configs]
            groups = [
                _Alone(members[0]) if need is None else _Sharing(method, members, device, kept, stack)
                for need, members in _by_need(method, passes)
            ]
            for number, image in enumerate(_wanted(groups, images)):
                where = f"frame {number}"
                for group in groups:
                    group.push(number, image)
                taken += 1
            where = f"at the end, after {taken} frames"
            assert all(g.num_recorded in (None, taken) for g in groups), f"{taken} frames, but others were kept"
            for each in passes:
                each.close()
        except (UserError, AssertionError):
            raise
        except Exception as error:
            raise SnippetError(f"{where}: {type(error).__name__}: {error}") from error
    return [each.result() for each in passes]


def _started(
    method: Method, config: MethodConfig, device: torch.device | None, truth: Callable[[], Truth] | None
) -> _Pass:
    clock = StageClock(device)
    if truth is not None and isinstance(method, GuidedMethod) and config.guided:
        # Not timed: what it took to choose is not what the choice costs.
        stream: Stream = _Annotated(method.guided_stream(config), truth)
    else:
        stream = method.stream(config, clock)
    return _Pass(type(method).__name__, config, stream, clock)


class _Annotated:
    """A guided stream as a stream of images."""

    def __init__(self, stream: GuidedStream, truth: Callable[[], Truth]) -> None:
        self._stream, self._truth = stream, truth

    def push(self, image: Image) -> list[Detections]:
        return self._stream.push_annotated(image, self._truth())

    def close(self) -> list[Detections]:
        return self._stream.close()


def _wanted(groups: Sequence[_Group], images: Iterable[Image]) -> Iterable[Image | None]:
    """The images, or as many times None when nobody looks at them."""
    numbers = [group.num_recorded for group in groups]
    return images if None in numbers else [None] * (numbers[0] or 0)


class _Pass:
    """The stream of one configuration, and what came out of it so far."""

    def __init__(self, name: str, config: MethodConfig, stream: Stream, clock: StageClock) -> None:
        self.config, self.stream = config, stream
        self._name, self._clock = name, clock
        self._found: list[Detections] = []
        self._returned: list[int] = []
        self._times: list[StageTimes] = []
        self._closing: StageTimes = {}

    def push(self, image: Image) -> None:
        self._took(self.stream.push(image), {})

    def push_encoded(self, encoded: Any, encoding_ms: StageTimes) -> None:
        assert isinstance(self.stream, EncodedStream)
        self._took(self.stream.push_encoded(encoded), encoding_ms)

    def _took(self, final: Sequence[Detections], encoding_ms: StageTimes) -> None:
        self._found.extend(final)
        self._returned.append(len(final))
        self._times.append({**encoding_ms, **self._clock.take_ms()})

    def close(self) -> None:
        self._found.extend(self.stream.close())
        self._closing = self._clock.take_ms()

    def result(self) -> SnippetResult:
        assert len(self._found) == len(self._returned), (
            f"{self._name}: its stream took {len(self._returned)} frames and returned detections of {len(self._found)}"
        )
        return SnippetResult(self._found, _shared_out(self._times, self._returned, self._closing))


class _Group(Protocol):
    """Configurations that are given the same of every frame."""

    @property
    def num_recorded(self) -> int | None:
        """How many frames it has without being given images; None: it wants images."""
        ...

    def push(self, number: int, image: Image | None) -> None: ...


class _Alone:
    """A configuration that takes images."""

    num_recorded = None

    def __init__(self, member: _Pass) -> None:
        self._member = member

    def push(self, number: int, image: Image | None) -> None:
        assert image is not None
        self._member.push(image)


class _Sharing:
    """Configurations that need the same of every frame: encoded now, or before."""

    def __init__(
        self,
        method: Method,
        members: Sequence[_Pass],
        device: torch.device | None,
        kept: KeptFeatures | None,
        stack: ExitStack,
    ) -> None:
        assert isinstance(method, FrameEncoder)
        self._method, self._members, self._clock = method, members, StageClock(device)
        self._config = members[0].config
        self._recorded = None if kept is None else stack.enter_context(kept.recorded(self._config))
        missing = None if self._recorded is not None else kept
        self._recorder = None if missing is None else stack.enter_context(missing.recording(self._config))

    @property
    def num_recorded(self) -> int | None:
        return None if self._recorded is None else len(self._recorded)

    def push(self, number: int, image: Image | None) -> None:
        encoded, encoding_ms = self._encoded(number, image)
        for member in self._members:
            member.push_encoded(encoded, encoding_ms)

    def _encoded(self, number: int, image: Image | None) -> tuple[Any, StageTimes]:
        if self._recorded is not None:
            return self._recorded.frame(number)
        assert image is not None
        encoded = self._method.encode(image, self._config, self._clock)
        encoding_ms = self._clock.take_ms()
        if self._recorder is not None:
            encoded = self._recorder.add(encoded, encoding_ms)
        return encoded, encoding_ms


def _by_need(method: Method, passes: Sequence[_Pass]) -> Iterator[tuple[str | None, list[_Pass]]]:
    """Passes that may share an encoding, and those that take images (None), one by one."""
    groups: dict[str, list[_Pass]] = {}
    for each in passes:
        # A method that inherits an encoder may have streams of another kind, which see images only.
        if isinstance(method, FrameEncoder) and isinstance(each.stream, EncodedStream):
            need = fingerprint(dict(method.encoding_settings(each.config)))
            groups.setdefault(need, []).append(each)
        else:
            yield None, [each]
    yield from groups.items()


def _shared_out(times: Sequence[StageTimes], returned: Sequence[int], closing: Mapping[str, float]) -> list[StageTimes]:
    """Stage times a frame, with those of ``close`` distributed."""
    names = dict.fromkeys(name for stages in (*times, closing) for name in stages)
    costs = {n: frame_costs([t.get(n, 0.0) for t in times], returned, closing.get(n, 0.0)) for n in names}
    return [{name: float(costs[name][i]) for name in names} for i in range(len(times))]
