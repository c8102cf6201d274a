"""Files below the root of an ILSVRC tree, on any fsspec URL."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.storage import filesystem, join

_T = TypeVar("_T")
_R = TypeVar("_R")

# Small files on network storage: the wait is latency, so many at once; more than this only queues on local disks.
_THREADS = 16
# Starting threads takes longer than reading this many small files from a local disk.
_FEW = 64


class Tree:
    """Reads and lists below ``root``; holds no open file, so it can be pickled."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._fs, self._path = filesystem(root)
        self._local = isinstance(self._fs, LocalFileSystem)

    def url(self, path: str) -> str:
        """How an error names a file of the tree."""
        return join(self.root, path)

    def exists(self, path: str = "") -> bool:
        return bool(self._fs.exists(posixpath.join(self._path, path)))

    def names(self, folder: str = "") -> list[str]:
        """Sorted names directly below a folder, from one listing; none when it does not exist."""
        try:
            paths = self._fs.ls(posixpath.join(self._path, folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({posixpath.basename(path.rstrip("/")) for path in paths})

    def read(self, path: str) -> bytes:
        """A file's bytes; ``UserError`` when it is missing or may not be read. Other failures are not the user's."""
        try:
            return bytes(self._fs.cat_file(posixpath.join(self._path, path)))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UserError(f"'{self.url(path)}' does not exist; restore it or take it off the list") from error
        except PermissionError as error:
            raise UserError(f"'{self.url(path)}' may not be read ({error}); grant access") from error

    def read_text(self, path: str) -> str:
        try:
            return self.read(path).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"'{self.url(path)}' is not UTF-8 text ({error}); restore it") from error

    def in_parallel(self, function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
        """``function`` of every item, in order, a few at a time; the first error is raised."""
        if len(items) < (_FEW if self._local else 2):
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
            return list(pool.map(function, items))


def stems(names: Iterable[str], extensions: Sequence[str]) -> dict[str, str]:
    """stem -> extension of the file names that have one of these extensions."""
    split = (posixpath.splitext(name) for name in names)
    return {stem: extension for stem, extension in split if extension in extensions}
