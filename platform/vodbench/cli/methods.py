"""``vodbench methods``: what can be trained, swept and compared."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.cli.shared import example
from vodbench.knobs import need_in_words
from vodbench.registry import method_spec, table
from vodbench.spec import MethodSpec

EPILOG = example("vodbench methods rdn")


def command(
    name: Annotated[str | None, typer.Argument(help="Show this method's knobs with their ranges.")] = None,
) -> None:
    """List the methods, or the knobs of one."""
    if name is None:
        Console().print(_all_methods())
        return
    spec = method_spec(name)
    Console().print(f"[bold]{spec.name}[/]  {spec.summary}\n{spec.paper}\npresets: {', '.join(spec.presets)}")
    Console().print(_knobs(spec))


def _all_methods() -> Table:
    rows = Table("method", "what it is", "paper", "inference knobs", box=None)
    for name in table("methods"):
        spec = method_spec(name)
        symbols = [k for k, knob in spec.config.knobs().items() if knob.kind == "inference" and knob.symbol]
        rows.add_row(name, spec.summary, spec.paper, " ".join(symbols))
    return rows


def _knobs(spec: MethodSpec) -> Table:
    defaults = spec.config()
    rows = Table("knob", "symbol", "kind", "default", "accepted", "meaning", box=None)
    for name, knob in spec.config.knobs().items():
        value = str(getattr(defaults, name))
        needs = " and ".join(need_in_words(other, need) for other, need in knob.needs.items())
        meaning = f"{knob.help} [only where {needs}]" if needs else knob.help
        rows.add_row(name, knob.symbol or "", knob.kind, value, knob.accepted(), escape(meaning))
    return rows
