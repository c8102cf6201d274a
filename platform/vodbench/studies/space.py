"""A study's knobs held against the methods' configurations: every value is checked before anything runs.

Knobs are conditional by construction: each method entry has its own, and a point is one entry with one value for
each of its knobs.
"""

from __future__ import annotations

import itertools
import json
import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.spec import MethodSpec
from vodbench.studies.model import MethodEntry, Range, Study

if TYPE_CHECKING:
    import optuna

_MAX_GRID = 100_000


@dataclass(frozen=True)
class Point:
    """One setting of one method; ``config`` is complete, ``knobs`` holds what the study sweeps."""

    method: str
    config: MethodConfig
    knobs: Mapping[str, Any]


@dataclass(frozen=True)
class KnobValues:
    """The values of one knob: a list (sorted when numeric) or a range."""

    name: str
    values: tuple[Any, ...] | Range
    integer: bool

    def grid(self) -> tuple[Any, ...]:
        """All values; ``UserError`` for a range without a step."""
        if not isinstance(self.values, Range):
            return self.values
        low, high, step = self.values.low, self.values.high, self.values.step
        if step is None:
            raise UserError(f"knob {self.name}: a grid needs the range's 'step', or a list of values")
        count = math.floor((high - low) / step + 1e-9) + 1
        # Twelve digits undo the binary error of low + i * step (0.1 + 2 * 0.1 is 0.3).
        return tuple(self._typed(float(f"{low + i * step:.12g}")) for i in range(count))

    def first(self) -> Any:
        """The first of the list, or the low end of the range."""
        return self._typed(self.values.low) if isinstance(self.values, Range) else self.values[0]

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """What Optuna draws from: numbers of a list by their rank (so that order counts), names as categories."""
        from optuna import distributions as d

        if isinstance(self.values, Range):
            low, high, step, log = self.values.low, self.values.high, self.values.step, self.values.log
            if self.integer:
                return d.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
            return d.FloatDistribution(low, high, log=log, step=step)
        if self._ranked:
            return d.IntDistribution(0, len(self.values) - 1)
        return d.CategoricalDistribution([json.dumps(value) for value in self.values])

    def decode(self, drawn: Any) -> Any:
        """The knob's value that Optuna's ``drawn`` stands for."""
        if isinstance(self.values, Range):
            return self._typed(drawn)
        return self.values[drawn] if self._ranked else json.loads(drawn)

    def encode(self, value: Any) -> Any | None:
        """The inverse of ``decode``; None for a value outside these."""
        if isinstance(self.values, Range):
            return value if self.values.low <= value <= self.values.high else None
        if value not in self.values:
            return None
        return self.values.index(value) if self._ranked else json.dumps(value)

    @property
    def _ranked(self) -> bool:
        return not isinstance(self.values, Range) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in self.values
        )

    def _typed(self, value: float) -> float:
        return round(value) if self.integer else value


@dataclass(frozen=True)
class MethodSpace:
    """One entry of a study: the configuration its points start from, and the values of its knobs."""

    spec: MethodSpec
    base: MethodConfig
    knobs: tuple[KnobValues, ...]

    def point(self, values: Mapping[str, Any]) -> Point:
        config = self.base.replace(**values)
        complete = config.to_mapping()  # as the configuration holds it: 3.0 given for an integer became 3
        return Point(self.spec.name, config, {name: complete[name] for name in values})

    def first(self) -> Point:
        """One point, whatever the sampler: the first value of every knob."""
        return self.point({knob.name: knob.first() for knob in self.knobs})

    def grid(self) -> Iterator[Point]:
        """Every combination; the first knob of the file varies slowest."""
        names = [knob.name for knob in self.knobs]
        for values in itertools.product(*(knob.grid() for knob in self.knobs)):
            yield self.point(dict(zip(names, values, strict=True)))


def method_spaces(study: Study) -> tuple[MethodSpace, ...]:
    """The study's entries, checked. ``UserError`` names the method, the knob, what was given and what is accepted."""
    _check_common_settings(study)
    return tuple(_method_space(study, entry) for entry in study.methods)


def grid_points(study: Study) -> list[Point]:
    """All points of a grid, each once, entry by entry, as many as ``search.trials`` allows."""
    points: dict[str, Point] = {}
    for space in method_spaces(study):
        if math.prod(len(knob.grid()) for knob in space.knobs) > _MAX_GRID:
            raise UserError(
                f"study '{study.name}': the grid of {space.spec.name} has more than {_MAX_GRID} points; use fewer "
                "values, or 'search: {sampler: tpe, trials: 100}'"
            )
        for point in _named_errors(study, space.spec.name, space.grid()):
            points.setdefault(json.dumps([point.method, point.config.to_mapping()]), point)
    return list(points.values())


def _method_space(study: Study, entry: MethodEntry) -> MethodSpace:
    spec = method_spec(entry.method)
    if study.preset not in spec.presets:
        raise UserError(f"study '{study.name}', {entry.method}: {unknown('preset', study.preset, spec.presets)}")
    declared = spec.config.knobs()
    for name in (*entry.settings, *entry.knobs):
        if name not in declared:
            raise UserError(f"study '{study.name}', {entry.method}: {unknown('knob', name, declared)}")
    if both := set(entry.settings) & set(entry.knobs):
        raise UserError(
            f"study '{study.name}', {entry.method}: '{sorted(both)[0]}' is under 'settings' and under 'knobs'; "
            "keep one of them"
        )
    common = {name: value for name, value in study.settings.items() if name in declared}
    hints = typing.get_type_hints(spec.config)
    try:
        base = spec.config.from_mapping({**spec.presets[study.preset], **common, **entry.settings})
        knobs = tuple(_knob_values(base, name, values, hints[name]) for name, values in entry.knobs.items())
    except UserError as error:
        raise UserError(f"study '{study.name}', {entry.method}: {error}") from error
    return MethodSpace(spec, base, knobs)


def _knob_values(base: MethodConfig, name: str, values: tuple[Any, ...] | Range, hint: Any) -> KnobValues:
    """The knob's values as the configuration holds them; the configuration rejects those it does not accept."""

    def canonical(value: Any) -> Any:
        return base.replace(**{name: value}).to_mapping()[name]

    if isinstance(values, Range):
        if not isinstance(canonical(values.low), (int, float)):
            raise UserError(f"knob {name} has no numeric range; give a list of values")
        canonical(values.high)
        if hint is int and values.step is not None and not values.step.is_integer():
            raise UserError(f"knob {name}: step {values.step:g} of a range of integers must be an integer")
        return KnobValues(name, values, integer=hint is int)
    known = {json.dumps(canonical(value)): canonical(value) for value in values}
    distinct = tuple(known.values())
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in distinct)
    return KnobValues(name, tuple(sorted(distinct)) if numeric else distinct, integer=hint is int)


def _check_common_settings(study: Study) -> None:
    """A common setting must belong to at least one method of the study."""
    known = {name for entry in study.methods for name in method_spec(entry.method).config.knobs()}
    for name in study.settings:
        if name not in known:
            raise UserError(f"study '{study.name}', settings: {unknown('knob', name, known)}")


def _named_errors(study: Study, method: str, points: Iterator[Point]) -> Iterator[Point]:
    try:
        yield from points
    except UserError as error:
        raise UserError(f"study '{study.name}', {method}: {error}") from error
