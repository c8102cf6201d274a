"""Files under a budget of bytes, the least recently used evicted first, shared by any number of processes.

On a local disk an entry is written into a temporary file that its writer holds locked, and takes its name in one
rename while the folder is locked, so that whole entries are within the budget at every moment, whatever the number of
processes; what they are writing comes on top. A writer that is killed leaves a temporary file that nobody holds; the
next one removes it. An entry's date says when it was last used.

On an object store an entry is one object, there whole or not at all. When it was last used is the date of a small
object beside it. There is no lock: processes that write at the same time may pass the budget by what they are
writing, and the next one brings it down again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.features.settings import CacheSettings
from vodbench.storage import filesystem, reaching

SUFFIX = ".features"
_USED = ".used"
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry: its path in the file system, its size and when it was last used (seconds since the epoch)."""

    path: str
    size: int
    used: float


class Spool:
    """An entry being written: at most ``limit`` bytes, above which it is given up and written no further."""

    def __init__(self, file: IO[bytes], limit: int, where: str) -> None:
        self.file, self._limit, self._where = file, limit, where
        self.size, self.given_up = 0, False

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.given_up = self.given_up or self.size > self._limit
        if not self.given_up:
            with enough_space(self._where, len(data)):
                self.file.write(data)


class FeatureStore(ABC):
    """Entries by name (``folder/name``) below one place."""

    def __init__(self, settings: CacheSettings) -> None:
        self.url, self.budget_bytes, self.began = settings.url, settings.budget_bytes, settings.began
        self.fs, self.root = filesystem(settings.url)

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name + SUFFIX)

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether it is there, or was when this was first asked about its folder; ``fetched`` looks again."""

    @abstractmethod
    def fetched(self, name: str) -> contextlib.AbstractContextManager[str | None]:
        """A local file with the entry, good within the block; None when it is not there. Counts as a use."""

    @abstractmethod
    def spool(self, name: str) -> contextlib.AbstractContextManager[Spool]:
        """Where to write an entry; it vanishes with the block unless ``commit`` took it."""

    @abstractmethod
    def commit(self, name: str, spool: Spool) -> bool:
        """Give what was written its name, evicting others where the budget asks for it; False when it has no place."""

    @abstractmethod
    def entries(self) -> list[Kept]: ...

    @abstractmethod
    def remove(self, kept: Kept) -> None: ...

    def make_room(self, wanted: int, replaced: str) -> bool:
        """Evict until ``wanted`` bytes fit beside the rest, the longest unused first; whether they do.

        Nothing goes unless enough can: what was used since the pass began stays. ``replaced``: the path that the new
        entry takes, whose old bytes do not count.
        """
        others = [kept for kept in self.entries() if kept.path != replaced]
        surplus = sum(kept.size for kept in others) + wanted - self.budget_bytes
        victims = []
        for kept in sorted(others, key=lambda kept: kept.used):
            if surplus <= 0 or kept.used >= self.began:
                break
            victims.append(kept)
            surplus -= kept.size
        if surplus > 0:
            return False
        for kept in victims:
            self.remove(kept)
        return True


@lru_cache(maxsize=8)
def open_store(settings: CacheSettings) -> FeatureStore:
    """The store as one pass sees it."""
    fs, _ = filesystem(settings.url)
    return LocalStore(settings) if isinstance(fs, LocalFileSystem) else RemoteStore(settings)


# ---- on a local disk ----------------------------------------------------------------------------------------


class LocalStore(FeatureStore):
    """Files of one folder, mapped where they lie."""

    def has(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    @contextmanager
    def fetched(self, name: str) -> Iterator[str | None]:
        path: str | None = self.path(name)
        try:
            os.utime(self.path(name))
        except FileNotFoundError:
            path = None
        yield path

    @contextmanager
    def spool(self, name: str) -> Iterator[Spool]:
        path = self.path(name)
        temporary = f"{path}.{uuid.uuid4().hex}{_TEMPORARY}"
        with _writable(self.url):
            os.makedirs(posixpath.dirname(path), exist_ok=True)
            with self._locked():  # or it would look abandoned until it is locked itself
                file = open(temporary, "xb")  # noqa: SIM115 - closed below, after the block
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield Spool(file, self.budget_bytes, self.url)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            file.close()

    def commit(self, name: str, spool: Spool) -> bool:
        if spool.given_up:
            return False
        with enough_space(self.url, 0):
            spool.file.flush()
        with self._locked():
            self._remove_abandoned()
            if not self.make_room(spool.size, self.path(name)):
                return False
            os.replace(spool.file.name, self.path(name))
        return True

    def entries(self) -> list[Kept]:
        found = []
        for path in self._files(SUFFIX):
            with suppress(FileNotFoundError):
                about = os.stat(path)
                found.append(Kept(path, about.st_size, about.st_mtime))
        return found

    def remove(self, kept: Kept) -> None:
        with suppress(FileNotFoundError):
            os.unlink(kept.path)

    def _files(self, suffix: str) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            yield from (posixpath.join(folder, name) for name in names if name.endswith(suffix))

    def _remove_abandoned(self) -> None:
        """Remove what killed writers left: temporary files that nobody holds."""
        for path in self._files(_TEMPORARY):
            with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; the system frees the lock when its holder dies."""
        descriptor = os.open(posixpath.join(self.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def _writable(url: str) -> Iterator[None]:
    try:
        with enough_space(url, 0):
            yield
    except OSError as error:
        raise UserError(
            f"feature cache '{url}' cannot be written to ({error.strerror}); give another place, or 'off'"
        ) from error


@contextmanager
def enough_space(where: str, wanted: int) -> Iterator[None]:
    """What a full disk says, as a ``UserError`` with what is needed and what is there."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = _free_bytes(where)
        raise UserError(
            f"the disk of feature cache '{where}' is full: {max(wanted, 1):,} more bytes are needed and {free:,} are "
            "free; free some space, give a smaller budget or another place, or switch the cache off"
        ) from error


def _free_bytes(where: str) -> int:
    fs, path = filesystem(where)
    return shutil.disk_usage(path if isinstance(fs, LocalFileSystem) else tempfile.gettempdir()).free


# ---- on an object store -------------------------------------------------------------------------------------


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
