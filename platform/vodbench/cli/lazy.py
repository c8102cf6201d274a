"""Commands that are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from vodbench.errors import unknown


class LazyCommands(TyperGroup):
    """Commands by name from ``table``, so that ``vodbench methods`` does not wait for Ray to be imported.

    ``table``: name -> module, which holds either ``app`` (a group) or ``command`` with its ``EPILOG``.
    """

    table: ClassVar[Mapping[str, str]] = {}

    # The context's type is private to typer (it carries its own click), hence Any.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.table:
            raise unknown("command", cmd_name, self.table)
        module = import_module(self.table[cmd_name])
        if hasattr(module, "app"):
            group = typer.main.get_command(module.app)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
            single.command(epilog=module.EPILOG)(module.command)
            group = typer.main.get_command(single)
        group.name = cmd_name
        return group
