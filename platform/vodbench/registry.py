"""Finding methods and data sets by name, without importing them until asked.

A table is a literal ``dict[str, str]``: name -> ``"module:object"``. The tables that ship with vodbench are named
below; another package adds its own by declaring an entry point in the group ``vodbench.methods`` or
``vodbench.datasets`` whose value is the table, e.g. ``mine = "my_package:METHODS"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from vodbench.errors import UserError, unknown
from vodbench.spec import DatasetSpec, MethodSpec

Kind = Literal["methods", "datasets"]

_SHIPPED: Mapping[Kind, str] = {
    "methods": "vodbench_methods:METHODS",
    "datasets": "vodbench_datasets:DATASETS",
}
_DATA_TOOLS = "vodbench_datasets:TOOLS"
_BENCHES = ("vodbench_methods:BENCHES", "vodbench_datasets:BENCHES")


def load_object(reference: str) -> Any:
    """The object that ``"module:name"`` stands for."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


@cache
def table(kind: Kind) -> Mapping[str, str]:
    """All rows of one kind: the shipped table first, then those of installed plug-ins. A duplicate is an error."""
    rows: dict[str, str] = {}
    sources = [_SHIPPED[kind], *(e.value for e in entry_points(group=f"vodbench.{kind}"))]
    for source in sources:
        for name, reference in load_object(source).items():
            if name in rows:
                raise UserError(
                    f"{kind} '{name}' is registered twice: {rows[name]} and {reference}; rename one of them"
                )
            rows[name] = reference
    return rows


def method_spec(name: str) -> MethodSpec:
    """The method of that name; ``UserError`` with the nearest name when there is none."""
    spec = _row("methods", name)
    assert isinstance(spec, MethodSpec), f"{name}: expected a MethodSpec, got {type(spec).__name__}"
    return spec


def dataset_spec(name: str) -> DatasetSpec:
    spec = _row("datasets", name)
    assert isinstance(spec, DatasetSpec), f"{name}: expected a DatasetSpec, got {type(spec).__name__}"
    return spec


def data_tool(name: str) -> Any:
    """A tool of the shipped data sets package by its name in that package's table ``TOOLS``, e.g. "shard"."""
    return load_object(load_object(_DATA_TOOLS)[name])


def benches() -> Mapping[str, str]:
    """Benchmarks of the shipped methods' and data sets' parts: name under ``vodbench bench`` -> module with
    ``command``."""
    return {name: module for reference in _BENCHES for name, module in load_object(reference).items()}


def _row(kind: Kind, name: str) -> Any:
    rows = table(kind)
    if name not in rows:
        raise unknown(kind.removesuffix("s"), name, rows)
    return load_object(rows[name])
