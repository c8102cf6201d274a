"""Records as plain data and named arrays: what a frame's encoding is written as, without pickle.

A record is a dataclass of tensors, NumPy arrays, numbers, strings, flags, None, tuples of these, and such dataclasses.
The kind of a record is not part of what is written: it is what the encoder says that it returns (the annotation of
``encode``), so nothing stored can name code to run, and what does not fit that kind is refused.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import torch

from vodbench.spec import HALF_PRECISION

Array = npt.NDArray[Any]
Keep = Callable[[Array], Any]  # an array -> plain data that stands for it
Fetch = Callable[[Any], Array]

_SCALARS: tuple[type, ...] = (bool, int, float, str)


class UnfitError(ValueError):
    """Plain data that is no record of the kind asked for."""


def record_kind(encode: Callable[..., Any]) -> type | None:
    """The dataclass that ``encode`` says it returns; None where it says nothing that can be written down."""
    try:
        kind = get_type_hints(encode).get("return")
    except NameError:  # a name that exists for type checkers only
        return None
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) and _storable(kind) else None


def to_plain(value: Any, keep: Keep, *, half: bool = False, marked: bool = False) -> Any:
    """Plain data (JSON) for ``value``; its arrays go through ``keep``.

    With ``half``, float32 arrays in fields marked ``HALF_PRECISION`` are rounded to float16 where its range suffices.
    """
    if isinstance(value, torch.Tensor):
        # As it lies in memory, because kernels round in another order for other layouts (channels last, say).
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda d: -strides[d])
        plain = to_plain(value.detach().permute(order).cpu().numpy(), keep, half=half, marked=marked)
        return {**plain, "order": order}
    if isinstance(value, np.ndarray):
        return {"array": keep(_rounded(value) if half and marked else value), "dtype": value.dtype.str}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name), keep, half=half, marked=marked or _is_marked(f))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [to_plain(item, keep, half=half, marked=marked) for item in value]
    assert value is None or isinstance(value, _SCALARS), f"a {type(value).__name__} cannot be part of a kept record"
    return value


def from_plain(kind: Any, plain: Any, fetch: Fetch, device: torch.device) -> Any:
    """The record of that kind that ``to_plain`` was given; ``UnfitError`` for anything else."""
    if kind is torch.Tensor:
        return _tensor_from(plain, fetch, device)
    if _is_array(kind):
        return _fetched(plain, fetch)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from(kind, plain, fetch, device)
    if get_origin(kind) is tuple:
        if not isinstance(plain, list):
            raise UnfitError(f"expected a list, got a {type(plain).__name__}")
        kinds = _items(get_args(kind), len(plain))
        return tuple(from_plain(k, item, fetch, device) for k, item in zip(kinds, plain, strict=True))
    if _is_optional(kind):
        return None if plain is None else from_plain(_present(kind), plain, fetch, device)
    if kind is float and type(plain) is int:
        return float(plain)
    if kind not in _SCALARS or type(plain) is not kind:
        raise UnfitError(f"expected {kind}, got a {type(plain).__name__}")
    return plain


def rounded(record: Any, kind: type, device: torch.device) -> Any:
    """What comes back of a record that is kept in half precision."""
    arrays: list[Array] = []

    def keep(array: Array) -> int:
        arrays.append(array)
        return len(arrays) - 1

    return from_plain(kind, to_plain(record, keep, half=True), arrays.__getitem__, device)


def _dataclass_from(kind: type, plain: Any, fetch: Fetch, device: torch.device) -> Any:
    fields = _fields(kind)
    if not isinstance(plain, Mapping) or plain.keys() != fields.keys():
        raise UnfitError(f"expected the fields {', '.join(fields)} of a {kind.__name__}")
    return kind(**{name: from_plain(fields[name], value, fetch, device) for name, value in plain.items()})


def _tensor_from(plain: Any, fetch: Fetch, device: torch.device) -> torch.Tensor:
    """In the layout it had, and in memory of torch's own: kernels may round otherwise where alignment differs."""
    order = plain.get("order") if isinstance(plain, Mapping) else None
    if not isinstance(order, list) or sorted(order) != list(range(len(order))):
        raise UnfitError("expected a tensor")
    array = _fetched({name: value for name, value in plain.items() if name != "order"}, fetch)
    if array.ndim != len(order):
        raise UnfitError(f"a tensor of {array.ndim} dimensions, of which {len(order)} are ordered")
    stored = torch.from_numpy(array)
    own = torch.empty(stored.shape, dtype=stored.dtype, device=device).copy_(stored)
    return own.permute([order.index(d) for d in range(len(order))])


def _fetched(plain: Any, fetch: Fetch) -> Array:
    """The array in its own format; possibly a copy."""
    if not isinstance(plain, Mapping) or plain.keys() != {"array", "dtype"}:
        raise UnfitError("expected an array")
    return fetch(plain["array"]).astype(numeric(plain["dtype"]), copy=False)


def numeric(name: Any) -> np.dtype[Any]:
    """The dtype of that name, if it is one of numbers or flags; ``UnfitError`` otherwise (objects would be pickled)."""
    try:
        dtype: np.dtype[Any] = np.dtype(name)
    except TypeError as error:
        raise UnfitError(f"no dtype: {name!r}") from error
    if not isinstance(name, str) or dtype.kind not in "biuf":
        raise UnfitError(f"an array of {name!r}")
    return dtype


def _is_marked(field: dataclasses.Field[Any]) -> bool:
    return HALF_PRECISION.items() <= field.metadata.items()


def _rounded(array: Array) -> Array:
    if array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(np.isfinite(half), np.isfinite(array)) else array


# ---- kinds --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _fields(kind: type) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _storable(kind: Any) -> bool:
    if kind is torch.Tensor or _is_array(kind) or kind in _SCALARS:
        return True
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        try:
            return all(f.init for f in dataclasses.fields(kind)) and all(map(_storable, _fields(kind).values()))
        except NameError:
            return False
    if get_origin(kind) is tuple:
        return all(_storable(k) for k in get_args(kind) if k is not Ellipsis)
    return _is_optional(kind) and _storable(_present(kind))


def _is_array(kind: Any) -> bool:
    return kind is np.ndarray or get_origin(kind) is np.ndarray


def _is_optional(kind: Any) -> bool:
    args = get_args(kind)
    return get_origin(kind) in (Union, types.UnionType) and len(args) == 2 and type(None) in args


def _present(kind: Any) -> Any:
    return next(k for k in get_args(kind) if k is not type(None))


def _items(kinds: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The kinds of a tuple's ``count`` items: ``tuple[int, ...]`` has one for all."""
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return kinds[:1] * count
    if len(kinds) != count:
        raise UnfitError(f"expected {len(kinds)} items, got {count}")
    return kinds
