"""Operations counted without doing them: every large tensor is zeros that nobody wrote, and takes no memory.

What a network computes does not change how many operations it takes, as long as shapes are the same. So convolutions,
matrix products and whatever else gives a large tensor are not run: their result's shape is asked of torch's meta
kernels, and its zeros are pages that the operating system has not made yet. Small tensors (boxes, labels, what is kept
by non-maximum suppression) are computed, because shapes depend on them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from vodbench.timing.formulas import FORMULAS

LARGE = 2**16  # elements


def operations(once: Callable[[], object], large: int = LARGE) -> float:
    """GFLOP (2 x multiply-adds of convolutions, matrix products and attention) of one call; tensors on the CPU."""
    with Hollow(large), FlopCounterMode(display=False, custom_mapping=dict(FORMULAS)) as counter:
        once()
    return float(counter.get_total_flops()) / 1e9


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block no operator with a floating-point result of ``large`` or more elements is run.

    A method that is built inside has no weights to speak of, and takes no time to draw them.
    """

    def __init__(self, large: int = LARGE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._large = large

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operator: Any = func
        if operator.is_view or not self._any_large((*args, *kwargs.values())):
            return func(*args, **kwargs)
        if operator._schema.is_mutable:
            return args[0] if self._is_in_place(operator, args) else func(*args, **kwargs)
        shapes = _shapes(func, args, kwargs)
        heavy = operator.overloadpacket in flop_registry or operator.overloadpacket in FORMULAS
        if shapes is not None and (heavy or self._any_large([shapes])):
            return tree_map(self._zeros, shapes)
        return func(*args, **kwargs)

    def _is_in_place(self, operator: Any, args: tuple[Any, ...]) -> bool:
        """Whether it only writes to its first argument, a large tensor of floating point, and returns that."""
        returned = operator._schema.returns
        written = args[0] if args else None
        if len(returned) != 1 or returned[0].alias_info is None or not isinstance(written, Tensor):
            return False
        return self._is_large(written) and written.is_floating_point()

    def _any_large(self, values: Iterable[Any]) -> bool:
        return any(map(self._is_large, _tensors(values)))

    def _is_large(self, tensor: Tensor) -> bool:
        return tensor.numel() >= self._large

    def _zeros(self, value: Any) -> Any:
        """A tensor of that shape; a large one's pages are made when they are written."""
        if not isinstance(value, Tensor):
            return value
        if not self._is_large(value):
            return torch.zeros_like(value, device="cpu")
        extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        # Private: a page of a shared mapping would be made as soon as it is read.
        pages = mmap.mmap(-1, extent * value.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=value.dtype).as_strided(value.shape, value.stride())


def _shapes(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The results as meta tensors; None where they depend on values, or are not of floating point."""
    moved = {**kwargs, **({"device": torch.device("meta")} if "device" in kwargs else {})}
    try:
        found = func(*tree_map(_meta, args), **tree_map(_meta, moved))
    except (NotImplementedError, RuntimeError):
        return None
    first = next(_tensors([found]), None)
    return found if first is not None and first.is_floating_point() else None


def _meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """All of them, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
