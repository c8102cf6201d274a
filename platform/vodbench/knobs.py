"""Configurations: frozen dataclasses whose fields know their paper's symbol, range and kind.

A *training* setting changes the weights (N_b, the training T, every size of the network); an *inference* knob does
not (T, K, r, key-frame interval). The difference decides which trials share a checkpoint, so it is declared where
the field is. So is what a knob *needs*: the values of others without which it changes nothing. Sweeps then neither run
the same effective trial twice nor draw what has no effect.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from vodbench.errors import UserError, unknown

Kind = Literal["training", "inference"]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """What a knob may need of another: this value or more."""

    value: float


Need = AtLeast | tuple[Any, ...]  # of another knob: so much, or one of these values


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What a configuration field means and accepts. ``low``/``high`` are inclusive unless ``above`` is given."""

    kind: Kind
    help: str
    symbol: str | None = None  # as the paper writes it
    low: float | None = None
    above: float | None = None  # exclusive lower bound
    high: float | None = None
    choices: tuple[Any, ...] | None = None
    needs: Mapping[str, Need] = dataclasses.field(default_factory=dict)  # of other knobs; all of them, to do anything

    def accepted(self) -> str:
        """The accepted values in words, e.g. ``an integer >= 1`` or ``(0, 100]``."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        left = f"({self.above:g}" if self.above is not None else "(-inf" if self.low is None else f"[{self.low:g}"
        return f"{left}, {f'{self.high:g}]' if self.high is not None else 'inf)'}"

    def allows(self, value: Any) -> bool:
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return (
                math.isfinite(value)
                and (self.low is None or value >= self.low)
                and (self.above is None or value > self.above)
                and (self.high is None or value <= self.high)
            )
        return True


def knob(
    default: Any,
    help: str,
    *,
    kind: Kind = "training",
    symbol: str | None = None,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    needs: Mapping[str, Any] | None = None,
) -> Any:
    """A dataclass field of a ``MethodConfig``: ``T: int = knob(18, "supports each side", kind="inference", low=1)``.

    ``needs`` names knobs of the same configuration that this one does nothing without, each with the value, the tuple
    of values or the ``AtLeast`` that it needs: ``needs={"keys": "adaptive"}``. What a training knob needs are training
    knobs: weights do not know how they will be used.
    """
    needed = {name: n if isinstance(n, (AtLeast, tuple)) else (n,) for name, n in (needs or {}).items()}
    declared = Knob(kind=kind, help=help, symbol=symbol, low=low, above=above, high=high, choices=choices, needs=needed)
    return dataclasses.field(default=default, metadata={"knob": declared})


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of every method's configuration. Values are checked when the object is made."""

    def __post_init__(self) -> None:
        kind: Any = type(self)  # see knobs()
        types_of = _types_of(kind)
        for name, declared in self.knobs().items():
            value = getattr(self, name)
            coerced = _coerce(value, types_of[name])
            if coerced is _WRONG or (coerced is not None and not declared.allows(coerced)):
                raise UserError(
                    f"{name} = {value!r} is not accepted: {_type_name(types_of[name])} in {declared.accepted()} "
                    f"({declared.help})"
                )
            object.__setattr__(self, name, coerced)

    @classmethod
    def knobs(cls) -> Mapping[str, Knob]:
        """Every field with its declaration, in order."""
        kind: Any = cls  # mypy takes a class of dataclasses for one that has no hash
        return _knobs_of(kind)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from a plain mapping (YAML, JSON, ``--set``); unknown names are an error that suggests the nearest."""
        return cls(**cls.checked_names(values))

    @classmethod
    def checked_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        known = cls.knobs()
        for name in values:
            if name not in known:
                raise unknown("knob", str(name), known)
        return dict(values)

    def replace(self, **values: Any) -> Self:
        return dataclasses.replace(self, **self.checked_names(values))

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON-able values (tuples become lists)."""
        return {n: list(v) if isinstance(v := getattr(self, n), tuple) else v for n in self.knobs()}

    def training_settings(self) -> dict[str, Any]:
        """What the weights depend on."""
        return self._of_kind("training")

    def inference_settings(self) -> dict[str, Any]:
        return self._of_kind("inference")

    @classmethod
    def matters(cls, name: str, values: Mapping[str, Any]) -> bool:
        """Whether a knob changes anything where all others have these values: what it needs is there, and matters."""
        return _matters(cls.knobs(), name, values)

    def effective_settings(self) -> dict[str, Any]:
        """``to_mapping`` without the knobs that change nothing here: configurations equal in it do the same."""
        declared, values = self.knobs(), self.to_mapping()
        return {name: value for name, value in values.items() if _matters(declared, name, values)}

    def warnings(self) -> tuple[str, ...]:
        """What to say when a training starts from fresh weights with these settings, a line each; it goes ahead."""
        return ()

    @property
    def guided(self) -> bool:
        """Whether inference looks at annotations: a bound on what one could reach, never advice on what to use."""
        return False

    def _of_kind(self, kind: Kind) -> dict[str, Any]:
        declared = self.knobs()
        return {name: value for name, value in self.to_mapping().items() if declared[name].kind == kind}


@functools.cache
def _knobs_of(config: type[MethodConfig]) -> Mapping[str, Knob]:
    declared = {f.name: f.metadata["knob"] for f in dataclasses.fields(config) if "knob" in f.metadata}
    return types.MappingProxyType(declared)


@functools.cache
def _types_of(config: type[MethodConfig]) -> Mapping[str, Any]:
    """Resolving annotations takes a millisecond, and a grid makes thousands of configurations of one class."""
    return typing.get_type_hints(config)


def _matters(declared: Mapping[str, Knob], name: str, values: Mapping[str, Any]) -> bool:
    needs = declared[name].needs
    return all(meets(values[other], need) and _matters(declared, other, values) for other, need in needs.items())


def meets(value: Any, need: Need) -> bool:
    """Whether a knob's value is what another one needs."""
    return value >= need.value if isinstance(need, AtLeast) else value in need


def need_in_words(name: str, need: Need) -> str:
    """``keys = adaptive``, ``second_stage = sem or joint``, ``inter_modules >= 1``."""
    if isinstance(need, AtLeast):
        return f"{name} >= {need.value:g}"
    *others, last = (str(value).lower() if isinstance(value, bool) else str(value) for value in need)
    return f"{name} = {', '.join(others)} or {last}" if others else f"{name} = {last}"


_WRONG = object()


def _coerce(value: Any, wanted: Any) -> Any:
    """``value`` as the annotated type, or ``_WRONG``. Integers pass as floats and 3.0 as 3; nothing else converts."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return next((c for a in args if (c := _coerce(value, a)) is not _WRONG), _WRONG)
    if wanted is type(None):
        return None if value is None else _WRONG
    if origin is Literal:
        return value if value in args else _WRONG
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _WRONG
        items = tuple(_coerce(v, args[0]) for v in value)
        return _WRONG if _WRONG in items else items
    if isinstance(value, bool) or wanted is bool:
        return value if isinstance(value, bool) and wanted is bool else _WRONG
    if wanted is float and isinstance(value, (int, float)):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, wanted) else _WRONG


def _type_name(wanted: Any) -> str:
    return {int: "an integer", float: "a number", str: "a name", bool: "true or false"}.get(wanted, str(wanted))
