"""A study's knobs held against the methods' configurations: every value is checked before anything runs.

Knobs are conditional: each method entry has its own, and of these a point has the ones that change something beside
its others (``MethodConfig.matters``). Where a swept knob changes nothing, the point has the value of the entry's base.
"""

from __future__ import annotations

import itertools
import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig, meets, need_in_words
from vodbench.registry import method_spec
from vodbench.spec import MethodSpec
from vodbench.studies.model import MethodEntry, Range, Study
from vodbench.studies.values import KnobValues

_MAX_GRID = 100_000


@dataclass(frozen=True)
class Point:
    """One setting of one method; ``config`` is complete, ``knobs`` holds what the study sweeps and what matters."""

    method: str
    config: MethodConfig
    knobs: Mapping[str, Any]


@dataclass(frozen=True)
class MethodSpace:
    """One entry of a study: the configuration its points start from, and the values of its knobs."""

    spec: MethodSpec
    base: MethodConfig
    knobs: tuple[KnobValues, ...]

    def point(self, values: Mapping[str, Any]) -> Point:
        """The point of these values; those that change nothing beside the others are left as the base has them."""
        known = {**self.base.to_mapping(), **values}
        swept = {name: value for name, value in values.items() if self.base.matters(name, known)}
        config = self.base.replace(**swept)
        complete = config.to_mapping()  # as the configuration holds it: 3.0 given for an integer became 3
        return Point(self.spec.name, config, {name: complete[name] for name in swept})

    def draw(self, suggest: Callable[[KnobValues], Any]) -> Point:
        """A point whose values ``suggest`` is asked for one by one: only those that change something."""
        known = self.base.to_mapping()
        values: dict[str, Any] = {}
        for knob in self._needed_first():
            if self.base.matters(knob.name, {**known, **values}):
                values[knob.name] = suggest(knob)
        return self.point(values)

    def encode(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Optuna draws for a configuration: a value for each knob that matters there; None if it lies outside."""
        known = {**self.base.to_mapping(), **config}
        drawn = {k.name: k.encode(known[k.name]) for k in self.knobs if self.base.matters(k.name, known)}
        return None if None in drawn.values() else drawn

    def first(self) -> Point:
        """One point, whatever the sampler: the first value of every knob."""
        return self.point({knob.name: knob.first() for knob in self.knobs})

    def grid(self) -> Iterator[Point]:
        """Every combination; the first knob of the file varies slowest."""
        names = [knob.name for knob in self.knobs]
        for values in itertools.product(*(knob.grid() for knob in self.knobs)):
            yield self.point(dict(zip(names, values, strict=True)))

    def decode(self, drawn: Mapping[str, Any]) -> Point:
        """The inverse of ``encode``."""
        return self.point({knob.name: knob.decode(drawn[knob.name]) for knob in self.knobs if knob.name in drawn})

    def _needed_first(self) -> list[KnobValues]:
        declared = self.base.knobs()

        def depth(name: str) -> int:
            return max((1 + depth(other) for other in declared[name].needs), default=0)

        return sorted(self.knobs, key=lambda knob: depth(knob.name))


def method_spaces(study: Study) -> tuple[MethodSpace, ...]:
    """The study's entries, checked. ``UserError`` names the method, the knob, what was given and what is accepted."""
    _check_common_settings(study)
    return tuple(_method_space(study, entry) for entry in study.methods)


def grid_points(study: Study) -> list[Point]:
    """All points of a grid, entry by entry; of those that differ in nothing that matters, the first."""
    points: dict[str, Point] = {}
    for space in method_spaces(study):
        if math.prod(len(knob.grid()) for knob in space.knobs) > _MAX_GRID:
            raise UserError(
                f"study '{study.name}': the grid of {space.spec.name} has more than {_MAX_GRID} points; use fewer "
                "values, or 'search: {sampler: tpe, trials: 100}'"
            )
        for point in _named_errors(study, space.spec.name, space.grid()):
            points.setdefault(json.dumps([point.method, point.config.effective_settings()]), point)
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
        _check_matter(base, knobs)
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
    known = {json.dumps(held): held for held in map(canonical, values)}
    distinct = tuple(known.values())
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in distinct)
    return KnobValues(name, tuple(sorted(distinct)) if numeric else distinct, integer=hint is int)


def _check_matter(base: MethodConfig, knobs: Sequence[KnobValues]) -> None:
    """``UserError`` for a knob that would change nothing, whatever values the others take."""
    swept, held, declared = {knob.name: knob for knob in knobs}, base.to_mapping(), base.knobs()

    def missed(name: str) -> tuple[str, str] | None:
        """What a knob needs and never has: the other knob, and the need in words."""
        for other, need in declared[name].needs.items():
            if not (swept[other].may_meet(need) if other in swept else meets(held[other], need)):
                return other, need_in_words(other, need)
            if further := missed(other):
                return further
        return None

    for name in swept:
        if found := missed(name):
            other, need = found
            given = f"no value of {other} is that" if other in swept else f"{other} is {held[other]}"
            raise UserError(
                f"knob {name} is swept but would change nothing: it needs {need}, and {given}; "
                f"set or sweep {other} accordingly, or leave {name} out"
            )


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
