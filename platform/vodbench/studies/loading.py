"""Finding, reading and listing study files."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

import pydantic
import yaml

import vodbench
from vodbench.errors import UserError, nearest, unknown
from vodbench.redaction import refuse_settings
from vodbench.storage import read_text
from vodbench.studies.model import Study

OWN_SCALE = "paper"  # the scale that a file with others describes itself
PUBLISHED_FILE = "published.yaml"  # the papers' figures, not a study


def studies_folder() -> Path:
    """The shipped studies: inside the installed package, or ``studies/`` of the checkout."""
    package = Path(vodbench.__file__).parent
    shipped = package / "_studies"
    return shipped if shipped.is_dir() else package.parent.parent / "studies"


def shipped_studies() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    files = sorted(studies_folder().glob("*.yaml"))
    return {file.stem: file for file in files if file.name != PUBLISHED_FILE}


def matching_studies(names: Sequence[str]) -> list[str]:
    """These names with patterns (``rdn-*``) replaced by the shipped studies that match, each once, in the order given.

    ``UserError`` for a pattern that matches none.
    """
    found: dict[str, None] = {}
    for name in names:
        a_file = name.endswith((".yaml", ".yml"))
        matching = [name] if a_file or not has_magic(name) else fnmatch.filter(shipped_studies(), name)
        if not matching:
            raise UserError(f"'{name}' matches no study: {nearest(name, shipped_studies())}; see 'vodbench studies'")
        found.update(dict.fromkeys(matching))
    return list(found)


def list_studies() -> dict[str, str]:
    """Name -> one-line title of every shipped study."""
    return {name: load_study(name).title for name in shipped_studies()}


def load_study(name_or_path: str, overrides: Mapping[str, Any] | None = None, scale: str | None = None) -> Study:
    """The study of that shipped name, or in that file (a local path or URL ending in .yaml or .yml).

    ``scale`` names an entry of the file's ``scales``: keys that replace those of the file, section by section (lists
    as a whole). None, and "paper" where a file has scales, is the file as it stands.
    ``overrides`` are dotted keys as ``--set`` gives them: ``{"search.trials": 5, "methods.rdn.knobs.T": [1, 2]}``.
    ``UserError`` for an unknown name, key or value. Knobs are checked by ``vodbench.studies.space``.
    """
    where, text = _find(name_or_path)
    values = _scaled(parse_mapping(text, where), scale, where)
    for key, value in (overrides or {}).items():
        _override(values, key, value, where)
    return parse_study(values, where)


def parse_study(values: Mapping[str, Any], where: str) -> Study:
    """A study from plain values; ``where`` names the file in errors. ``UserError`` for a secret, too: it would be
    written down with every result."""
    refuse_settings(values, f"study {where}")
    try:
        return Study.model_validate(values)
    except pydantic.ValidationError as error:
        raise UserError(f"study {where}: {_first_problem(error)}") from error


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """YAML text that must hold a mapping."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"study {where} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"study {where} holds {type(values).__name__}, not keys and values; see studies/demo.yaml")
    return values


def _find(name_or_path: str) -> tuple[str, str]:
    if name_or_path.endswith((".yaml", ".yml")):
        return f"'{name_or_path}'", read_text(name_or_path)
    shipped = shipped_studies()
    if name_or_path not in shipped:
        hint = nearest(name_or_path, shipped)
        raise UserError(f"unknown study '{name_or_path}': {hint}; or give the path of a .yaml file")
    return f"'{name_or_path}'", shipped[name_or_path].read_text(encoding="utf-8")


def study_scales(name_or_path: str) -> tuple[str, ...]:
    """The scales a study file offers beside its own, e.g. ("small",)."""
    where, text = _find(name_or_path)
    return tuple(_scales(parse_mapping(text, where), where))


def _scaled(values: dict[str, Any], scale: str | None, where: str) -> dict[str, Any]:
    scales = _scales(values, where)
    values = {key: value for key, value in values.items() if key != "scales"}
    if scale is None or (scale == OWN_SCALE and scales):
        return values
    if scale not in scales:
        raise UserError(f"study {where}: {unknown('scale', scale, [OWN_SCALE, *scales] if scales else [])}")
    return _merged(values, scales[scale])


def _scales(values: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    scales = values.get("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(scale, dict) for scale in scales.values()):
        raise UserError(f"study {where}: 'scales' must hold a section for each scale, such as small: {{preset: tiny}}")
    return scales


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set ``a.b.c``; an entry of ``methods`` is named by its method or its position."""
    *parents, last = key.split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = _entry(node, part, where)
            continue
        node = node.setdefault(part, {})
        if not isinstance(node, (dict, list)):
            raise UserError(f"study {where}: --set {key}: '{'.'.join(parents[: depth + 1])}' is a value, not a section")
    if isinstance(node, list):
        raise UserError(f"study {where}: --set {key} replaces a whole entry; name a key inside it")
    node[last] = value


def _entry(entries: list[Any], part: str, where: str) -> Any:
    named = {str(e.get("method")): e for e in entries if isinstance(e, dict)}
    if part in named:
        return named[part]
    if part.isdigit() and int(part) < len(entries):
        return entries[int(part)]
    raise UserError(f"study {where}: {unknown('method', part, named)}")


def _first_problem(error: pydantic.ValidationError) -> str:
    """One line: where, what is wrong, what was given."""
    problem = error.errors()[0]
    # pydantic adds the member of a union to the place ("constrained-int"); it is no key of the file.
    place = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part.isidentifier())
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"'{place}' is missing; add it"
    if problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
