"""Lines through the configurations of a method along which one knob alone changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.trials.configurations import Configuration, written


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Configurations by the rising value of ``knob``; they agree in every other setting."""

    method: str
    knob: str
    points: tuple[Configuration, ...]
    told_by: Mapping[str, Any]  # settings that the method's other curves have otherwise

    @property
    def label(self) -> str:
        """E.g. ``rdn along T, K=6``."""
        return ", ".join(filter(None, [f"{self.method} along {self.knob}", written(self.told_by)]))


def curves(configurations: Sequence[Configuration]) -> list[Curve]:
    """The lines worth drawing, method by method.

    A study that varies one knob at a time gets a line for each knob. A full grid would get a mesh: longer lines are
    taken first, and a line must bring at least as many new points as it shares with those before.
    """
    found = []
    for method in dict.fromkeys(c.method for c in configurations):
        chosen: list[tuple[str, list[Configuration]]] = []
        drawn: set[int] = set()
        for knob, line in _longest_first([c for c in configurations if c.method == method]):
            new = {id(c) for c in line} - drawn
            if 2 * len(new) >= len(line):
                chosen.append((knob, line))
                drawn |= new
        found += [_curve(method, knob, line, chosen) for knob, line in chosen]
    return found


def _longest_first(configurations: Sequence[Configuration]) -> Iterator[tuple[str, list[Configuration]]]:
    """Every line of two points or more along a knob that some study swept, the longest first."""
    lines: dict[tuple[str, str], list[Configuration]] = {}
    for knob in dict.fromkeys(name for c in configurations for name in c.knobs):
        for c in configurations:
            if _is_number(c.config.get(knob)):
                rest = {name: value for name, value in c.config.items() if name != knob}
                lines.setdefault((knob, json.dumps(rest, sort_keys=True)), []).append(c)
    for (knob, _), line in sorted(lines.items(), key=lambda item: -len(item[1])):
        if len({c.config[knob] for c in line}) > 1:
            yield knob, sorted(line, key=lambda c: c.config[knob])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _curve(
    method: str, knob: str, line: Sequence[Configuration], others: Sequence[tuple[str, Sequence[Configuration]]]
) -> Curve:
    siblings = [other[0].config for name, other in others if name == knob]
    own = line[0].config
    told_by = {n: v for n, v in own.items() if n != knob and any(s.get(n) != v for s in siblings)}
    return Curve(method=method, knob=knob, points=tuple(line), told_by=told_by)
