"""Features on a local disk.

An entry is written into a temporary file that its writer holds locked, and takes its name in one
rename while the folder is locked, so that whole entries are within the budget at every moment, whatever the number of
processes; what they are writing comes on top. A writer that is killed leaves a temporary file that nobody holds; the
next one removes it. An entry's date says when it was last used.
"""

from __future__ import annotations

import fcntl
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vodbench.errors import UserError
from vodbench.features.budget import SUFFIX, FeatureStore, Kept, Spool, enough_space

_TEMPORARY = ".tmp"


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
