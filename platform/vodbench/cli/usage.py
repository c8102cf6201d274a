"""Mistakes that the parser of the command line finds, worded like all the others."""

from __future__ import annotations

from typing import Any

import typer

# Typer brings its own copy of click, or imports click, depending on its version: its public name is the way in.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def explain(error: Any) -> str:
    """One line: what was given, what is accepted, where to look. Empty where the help was printed instead."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    message = error.format_message().rstrip(".")
    problems = getattr(error.__cause__, "errors", None)  # pydantic's
    if problems is not None and error.param is not None:
        problem = problems()[0]
        wanted = problem["msg"].replace("Input should be", "it must be", 1).partition(", unable to")[0]
        message = f"{error.param.opts[-1]} {problem['input']!r} is not accepted: {wanted}"
    return f"{message}; see '{error.ctx.command_path} --help'" if error.ctx is not None else message
