"""Renders a package's files, checks everything, then writes them."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import jinja2
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.registry import Kind, table
from vodbench.storage import filesystem, make_folder, write_text

Template = Literal["method", "dataset"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 24  # characters of a name: the templates' lines stay within 120
_TABLES: Mapping[Template, Kind] = {"method": "methods", "dataset": "datasets"}
_MODULES: Mapping[Template, str] = {"method": "model.py", "dataset": "reader.py"}


@dataclass(frozen=True)
class Written:
    """A package that was written."""

    folder: str
    module: str  # the file to make one's own
    files: tuple[str, ...]  # relative to the folder


def write_package(template: Template, name: str, folder: str | None = None) -> Written:
    """Write the package ``vodbench-NAME`` with a method or data set called ``name``.

    It declares the entry point that makes ``name`` known to vodbench once it is installed, passes its own test, ruff
    and mypy, and imports ``vodbench`` alone besides what it builds on.

    Args:
        folder: a local folder that is not there yet, or empty; ``vodbench-NAME`` here when left out.

    Raises:
        UserError: the name is not accepted or taken, or the folder cannot be used. Nothing was written then.
    """
    _check_name(template, name)
    folder = f"vodbench-{name}" if folder is None else folder
    _check_folder(folder)
    files = _rendered(template, name)
    _check_code(name, files)
    make_folder(folder)
    for file, text in files.items():
        write_text(os.path.join(folder, file), text)
    return Written(folder, f"{_package(name)}/{_MODULES[template]}", tuple(files))


def _package(name: str) -> str:
    return f"vodbench_{name.replace('-', '_')}"


def _check_name(template: Template, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UserError(
            f"name {name!r} is not accepted: up to {_LONGEST} small letters and digits, words joined by '-', a letter "
            "first; for example my-detector"
        )
    if name in table(_TABLES[template]):
        raise UserError(
            f"{template} '{name}' is there already (see 'vodbench {_TABLES[template]}'); choose another name"
        )
    if find_spec(_package(name)) is not None:
        raise UserError(f"a package {_package(name)} is installed already; choose another name")


def _check_folder(folder: str) -> None:
    fs, path = filesystem(folder)
    if not isinstance(fs, LocalFileSystem):
        raise UserError(f"folder '{folder}' is not on this machine; give a local one")
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UserError(f"'{folder}' is there already; give another --folder, or another name")


def _rendered(template: Template, name: str) -> dict[str, str]:
    """Path in the package -> text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vodbench.scaffold", f"templates/{template}"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    words = {"name": name, "package": _package(name), "camel": "".join(map(str.capitalize, name.split("-")))}
    places = {
        "pyproject.toml.j2": "pyproject.toml",
        "init.py.j2": f"{_package(name)}/__init__.py",
        f"{_MODULES[template]}.j2": f"{_package(name)}/{_MODULES[template]}",
        "test.py.j2": f"tests/test_{name.replace('-', '_')}.py",
    }
    files = {place: environment.get_template(source).render(words) for source, place in places.items()}
    return files | {f"{_package(name)}/py.typed": ""}


def _check_code(name: str, files: Mapping[str, str]) -> None:
    """``UserError`` where the classes that ``name`` gives have the name of something the code uses, or of a keyword."""
    for file, text in files.items():
        if not file.endswith(".py"):
            continue
        try:
            module = ast.parse(text)
        except SyntaxError as error:
            raise UserError(f"name '{name}' makes a word of Python's a class; choose another name") from error
        used = {alias.name for node in ast.walk(module) if isinstance(node, ast.ImportFrom) for alias in node.names}
        own = [node.name for node in module.body if isinstance(node, ast.ClassDef)]
        if clash := sorted(used.intersection(own)):
            raise UserError(f"name '{name}' makes a class {clash[0]}, and vodbench has one; choose another name")
