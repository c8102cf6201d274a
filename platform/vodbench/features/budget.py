"""What every feature store does: entries by name, a budget, and who goes when it is used up."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.features.settings import CacheSettings
from vodbench.storage import filesystem

SUFFIX = ".features"


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
