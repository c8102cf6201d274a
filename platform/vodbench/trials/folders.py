"""Study folders by path, URL, pattern, or by their name below ``runs/``."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from glob import has_magic
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError, nearest
from vodbench.storage import exists, filesystem, join, reaching

RUNS = "runs"  # where a sweep puts its folder when it is not told where
_MARK = "study.yaml"


def study_folders(names: Sequence[str]) -> list[str]:
    """The study folders that these names mean, each once, in the order given; a pattern's by name.

    A name is a path or URL, or a pattern of one (``*``, ``?``, ``[ab]``); what is not there is looked for below
    ``runs/``. ``UserError`` for a name or pattern that means no study folder.
    """
    found: dict[str, str] = {}
    for name in names:
        for folder in _meant(name):
            found.setdefault(filesystem(folder)[1], folder)
    return list(found.values())


def folder_name(folder: str) -> str:
    """What a study folder is called in tables and pictures: the last part of its path."""
    return posixpath.basename(folder.rstrip("/")) or folder


def _meant(name: str) -> list[str]:
    places = [name.rstrip("/") or name]
    if "://" not in name and not name.startswith("/"):
        places.append(join(RUNS, places[0]))
    for place in places:
        if exists(join(place, _MARK)):
            return [place]
        if has_magic(place) and (folders := _matching(place)):
            return folders
    raise _nothing(name)


def _matching(pattern: str) -> list[str]:
    fs, path = filesystem(pattern)
    with reaching(pattern):
        marks = sorted(fs.glob(posixpath.join(path, _MARK)))
    return [_as_given(fs, posixpath.dirname(mark), pattern) for mark in marks]


def _as_given(fs: Any, path: str, pattern: str) -> str:
    """A path inside ``fs`` as the user would have written it: relative where the pattern was, with its scheme."""
    if not isinstance(fs, LocalFileSystem):
        return str(fs.unstrip_protocol(path))
    return path if os.path.isabs(pattern) or "://" in pattern else os.path.relpath(path)


def _nothing(name: str) -> UserError:
    if has_magic(name):
        return UserError(f"'{name}' matches no study folder, here or below {RUNS}/: {_there(name)}")
    fs, path = filesystem(name)
    with reaching(name):
        folder = fs.isdir(path)
    if folder:
        return UserError(f"'{name}' holds no study.yaml; give the --out folder of a 'vodbench sweep'")
    return UserError(f"'{name}' is not a folder; give the --out folder of a 'vodbench sweep' ({_there(name)})")


def _there(name: str) -> str:
    return nearest(name, (folder_name(folder) for folder in _matching(join(RUNS, "*"))))
