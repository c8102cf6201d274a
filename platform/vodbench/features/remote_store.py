"""Features on an object store.

An entry is one object, there whole or not at all. When it was last used is the date of a small
object beside it. There is no lock: processes that write at the same time may pass the budget by what they are
writing, and the next one brings it down again.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from vodbench.features.budget import SUFFIX, FeatureStore, Kept, Spool, enough_space
from vodbench.features.settings import CacheSettings
from vodbench.storage import reaching

_USED = ".used"


class RemoteStore(FeatureStore):
    """Objects of any fsspec file system, brought to a local file to be read."""

    def __init__(self, settings: CacheSettings) -> None:
        super().__init__(settings)
        self._listed: dict[str, set[str]] = {}  # by folder, once a pass: a request for each snippet would take longer

    def has(self, name: str) -> bool:
        path = self.path(name)
        folder = posixpath.dirname(path)
        if folder not in self._listed:
            self._listed[folder] = self._names(folder)
        return posixpath.basename(path) in self._listed[folder]

    def _names(self, folder: str) -> set[str]:
        self.fs.invalidate_cache()  # others write here, too
        try:
            with reaching(self.url):
                return {path.rpartition("/")[2] for path in self.fs.ls(folder, detail=False)}
        except FileNotFoundError:
            return set()

    @contextmanager
    def fetched(self, name: str) -> Iterator[str | None]:
        path = self.path(name)
        with tempfile.TemporaryDirectory(prefix="vodbench-features-") as folder:
            local: str | None = posixpath.join(folder, "entry")
            try:
                with reaching(self.url), enough_space(self.url, 0):
                    self.fs.get_file(path, local)
                    self.fs.pipe_file(path + _USED, b"")
            except FileNotFoundError:
                local = None
            yield local

    @contextmanager
    def spool(self, name: str) -> Iterator[Spool]:
        with tempfile.NamedTemporaryFile(prefix="vodbench-features-") as file:
            yield Spool(file, self.budget_bytes, self.url)

    def commit(self, name: str, spool: Spool) -> bool:
        path = self.path(name)
        if spool.given_up:
            return False
        spool.file.flush()
        with reaching(self.url):
            if not self.make_room(spool.size, path):
                return False
            self.fs.makedirs(posixpath.dirname(path), exist_ok=True)
            self.fs.put_file(spool.file.name, path)
        return True

    def entries(self) -> list[Kept]:
        self.fs.invalidate_cache()  # others write here, too
        found: dict[str, dict[str, Any]] = self.fs.find(self.root, detail=True)
        kept = []
        for path, info in found.items():
            if path.endswith(SUFFIX):
                dates = [_modified(each) for each in (info, found.get(path + _USED)) if each is not None]
                kept.append(Kept(path, int(info["size"]), max(dates)))
        return kept

    def remove(self, kept: Kept) -> None:
        for path in (kept.path, kept.path + _USED):
            with suppress(FileNotFoundError):
                self.fs.rm_file(path)


_DATES = ("LastModified", "last_modified", "updated", "mtime", "created")  # S3, Azure, Google, others


def _modified(info: dict[str, Any]) -> float:
    """When an object was written, as its store's listing says it."""
    for name in _DATES:
        date = info.get(name)
        if isinstance(date, (int, float)):
            return float(date)
        if isinstance(date, str):
            date = datetime.fromisoformat(date)
        if date is not None:
            return float(date.timestamp())
    return 0.0
