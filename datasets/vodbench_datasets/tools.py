"""What the command line asks of this package besides reading; found through the table ``TOOLS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vodbench.errors import UserError, unknown
from vodbench_datasets.generated import GeneratorConfig


def generator_config(settings: Mapping[str, Any]) -> GeneratorConfig:
    """The generator's configuration from plain values, as ``--set`` and YAML give them.

    Raises:
        UserError: a name that it does not have, or a value of another type than its default.
    """
    defaults = GeneratorConfig()
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in GeneratorConfig.field_names():
            raise unknown("setting of the generator", name, GeneratorConfig.field_names())
        values[name] = _like(name, value, getattr(defaults, name))
    return GeneratorConfig(**values)


def _like(name: str, value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``: a flag, a whole number, a number, or a (low, high) pair of numbers."""
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise UserError(f"{name} is {value!r}; give a range like {name}=[{default[0]}, {default[1]}]")
        return tuple(_like(name, item, like) for item, like in zip(value, default, strict=True))
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{name} is {value!r}; give true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} is {value!r}; give a number like {default}")
    if isinstance(default, int) and int(value) != value:
        raise UserError(f"{name} is {value!r}; give a whole number like {default}")
    return type(default)(value)
