"""Operations and memory of a method, counted at torch's dispatcher: the same on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vodbench.spec import Image, Method, Stream
from vodbench.timing.clock import NullClock
from vodbench.timing.formulas import FORMULAS
from vodbench.timing.passes import StartStream

# Fewer frames than this are no steady state: then a whole snippet is counted, filling and emptying included.
MIN_STEADY_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Count:
    """What streaming one snippet took."""

    gflops: float | None  # a frame, 2 x multiply-adds; None: nothing was counted
    peak_tensor_mb: float  # most bytes in tensors at once, the method's weights included; 1 MB = 10^6 bytes
    steady: bool  # gflops is of the steady state, not of a whole snippet


class PeakTensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Peak bytes of all tensors made inside the block and of those given, each storage counted once.

    Read between operators: scratch memory inside one operator is not seen, nor is what NumPy holds.
    """

    def __init__(self, held: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, int] = {}
        self.current = self.peak = 0
        for tensor in held:
            self._add(tensor)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        self._live[key] = size = storage.nbytes()
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.current -= self._live.pop(key, 0)


def count(method: Method, start: StartStream, images: Sequence[Image], latency_frames: int | None) -> Count:
    """Stream ``images`` once through the stream of ``method`` that ``start`` begins, and count.

    The steady state begins when a buffer of ``2 * latency_frames + 1`` frames has been filled; from there every push
    is counted up to the last image. A snippet that is too short for that, and every snippet of a method that answers at
    its end (``latency_frames`` None), is counted whole, ``close`` included, and divided by its frames.
    """
    assert isinstance(method, torch.nn.Module)
    skipped = 0 if latency_frames is None else 2 * latency_frames + 1
    steady = latency_frames is not None and len(images) - skipped >= MIN_STEADY_FRAMES
    memory = PeakTensorBytes([*method.parameters(), *method.buffers()])
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with torch.inference_mode(), memory:
        stream = start(NullClock())
        if steady:
            for image in images[:skipped]:
                stream.push(image)
            with counter:
                _push_all(stream, images[skipped:])
            stream.close()
        else:
            with counter:
                _push_all(stream, images)
                stream.close()
    frames = len(images) - skipped if steady else len(images)
    flops = counter.get_total_flops()
    return Count(flops / frames / 1e9 if flops else None, memory.peak / 1e6, steady)


def _push_all(stream: Stream, images: Iterable[Image]) -> None:
    for image in images:
        stream.push(image)
