"""One snippet through a method, with one configuration or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch

from vodbench.errors import UserError
from vodbench.features.sharing import KeptFeatures
from vodbench.fingerprint import fingerprint
from vodbench.interruption import from_outside
from vodbench.knobs import MethodConfig
from vodbench.spec import FrameEncoder, Image, Method, Truth
from vodbench.streaming.passes import Pass, SnippetResult, StageTimes, start_passes
from vodbench.timing.clock import StageClock


class SnippetError(RuntimeError):
    """A method failed on a frame; the message names the snippet and the frame."""


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
    there, with the time it took when it was made; others are put there. Where the method is a ``JointMethod``, they
    may share more, and what they do together is shared out among them evenly. Equal configurations are run once.

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
    distinct = [config for number, config in enumerate(configs) if config not in configs[:number]]
    with torch.inference_mode(), ExitStack() as stack:
        try:
            passes = start_passes(method, distinct, device, truth)
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
            if from_outside(error):
                raise
            raise SnippetError(f"{where}: {type(error).__name__}: {error}") from error
    found = [pair for each in passes for pair in zip(each.configs, each.results(), strict=True)]
    return [next(result for config, result in found if config == wanted) for wanted in configs]


def _wanted(groups: Sequence[_Group], images: Iterable[Image]) -> Iterable[Image | None]:
    """The images, or as many times None when nobody looks at them."""
    numbers = [group.num_recorded for group in groups]
    return images if None in numbers else [None] * (numbers[0] or 0)


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

    def __init__(self, member: Pass) -> None:
        self._member = member

    def push(self, number: int, image: Image | None) -> None:
        assert image is not None
        self._member.push(image)


class _Sharing:
    """Configurations that need the same of every frame: encoded now, or before."""

    def __init__(
        self,
        method: Method,
        members: Sequence[Pass],
        device: torch.device | None,
        kept: KeptFeatures | None,
        stack: ExitStack,
    ) -> None:
        assert isinstance(method, FrameEncoder)
        self._method, self._members, self._clock = method, members, StageClock(device)
        self._config = members[0].configs[0]
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


def _by_need(method: Method, passes: Sequence[Pass]) -> Iterator[tuple[str | None, list[Pass]]]:
    """Passes that may share an encoding, and those that take images (None), one by one."""
    groups: dict[str, list[Pass]] = {}
    for each in passes:
        # A method that inherits an encoder may have streams of another kind, which see images only.
        if each.takes_encoded:
            assert isinstance(method, FrameEncoder)
            need = fingerprint(dict(method.encoding_settings(each.configs[0])))
            groups.setdefault(need, []).append(each)
        else:
            yield None, [each]
    yield from groups.items()
