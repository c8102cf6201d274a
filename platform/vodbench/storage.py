"""Files on any fsspec URL, written whole or not at all."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import OneLineError, OutOfReachError, UserError
from vodbench.interruption import from_outside
from vodbench.redaction import redact, refuse_address

_TORN = re.compile(r".+\.[0-9a-f]{32}\.tmp")


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec file system, path inside it) of a local path or URL.

    ``UserError`` for an empty name, for a scheme nobody implements, and for an address with a password in it;
    ``OutOfReachError`` for a server that does not answer, which some file systems (FTP, SFTP) try at once.
    """
    if not url:
        raise _nameless()
    refuse_address(url)
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"'{url}' cannot be opened: {error}; give a local path or an s3://, gs://, az:// or memory:// URL"
        ) from error
    except OSError as error:
        raise out_of_reach(url, error) from error
    return fs, path


def _nameless() -> UserError:
    return UserError("an empty name is given where a path or URL is needed; name a file or folder, or a URL")


def join(root: str, *parts: str) -> str:
    """Join below a local path or URL; ``UserError`` for an empty one, which would stand for the working directory."""
    if not root:
        raise _nameless()
    return posixpath.join(root, *parts)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """What a store refuses as a ``UserError``, or an ``OutOfReachError`` where it may answer the next time.

    Every object store raises errors of its own. Other ``OSError``s pass: they say enough.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OneLineError):
            raise
        if from_outside(error):
            raise out_of_reach(url, error) from error
        if isinstance(error, OSError) and not isinstance(error, PermissionError):
            raise
        raise UserError(
            f"'{url}' cannot be reached ({type(error).__name__}: {redact(str(error))}); check the address, "
            "permissions, and for a bucket the network and credentials"
        ) from error


def out_of_reach(url: str, error: Exception) -> OutOfReachError:
    """What came from outside (``vodbench.interruption``) while a file was read or written, as the file's."""
    return OutOfReachError(
        f"'{url}' cannot be reached ({type(error).__name__}: {redact(str(error))}); check the address and the network"
    )


def exists(url: str) -> bool:
    """``UserError`` when the place cannot be asked."""
    fs, path = filesystem(url)
    with reaching(url):
        return bool(fs.exists(path)) or _is_silent_bucket(fs, path)


def _is_silent_bucket(fs: Any, path: str) -> bool:
    """False, unless its server says otherwise: of a bucket, s3fs takes every error for an answer."""
    if "s3" not in _protocols(fs) or "/" in path.strip("/"):
        return False
    with suppress(FileNotFoundError):
        fs.ls(path)
        return True
    return False


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def read_bytes(url: str) -> bytes:
    """The file's content; ``UserError`` naming the file when it is not there."""
    data = bytes_if_there(url)
    if data is None:
        raise _no_file(url)
    return data


def bytes_if_there(url: str) -> bytes | None:
    """The file's content, or None: one request to a store, where asking first would be two."""
    fs, path = filesystem(url)
    try:
        with reaching(url):
            return bytes(fs.cat_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise _no_file(url) from error


def _no_file(url: str) -> UserError:
    return UserError(f"'{url}' does not exist or is not a file")


def read_text(url: str) -> str:
    """The file's content; ``UserError`` naming the file when it is not there or not text in UTF-8."""
    return _decoded(url, read_bytes(url))


def text_if_there(url: str) -> str | None:
    """The file's content, or None; ``UserError`` naming the file when it is not text in UTF-8."""
    data = bytes_if_there(url)
    return None if data is None else _decoded(url, data)


def texts_if_there(folder: str, names: Sequence[str]) -> list[str | None]:
    """``text_if_there`` of files below ``folder``: side by side from an object store, where one by one takes long."""
    fs, path = filesystem(folder)
    if not names:
        return []
    with reaching(folder):
        found = fs.cat_ranges([join(path, name) for name in names], None, None, on_error="return")
        for data in found:
            if isinstance(data, BaseException) and not isinstance(data, (FileNotFoundError, NotADirectoryError)):
                raise data
    return [
        None if isinstance(data, BaseException) else _decoded(join(folder, name), data)
        for name, data in zip(names, found, strict=True)
    ]


def _decoded(url: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"'{url}' is not text in UTF-8 (byte {error.start}); give another file") from error


def make_folder(url: str) -> None:
    """Make a folder to write to, with its parents; ``UserError`` when it cannot be made or not be written to.

    For the moment before the first write of a command: what was wrong with the rest has been said by then. Object
    stores have no folders, and say only when they are written to what they refuse.
    """
    fs, path = filesystem(url)
    if not isinstance(fs, LocalFileSystem):
        exists(url)  # can it be reached at all?
        return
    try:
        os.makedirs(path, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        in_its_way = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file is in its way" if in_its_way else error.strerror
        raise UserError(f"folder '{url}' cannot be written to ({reason}); give another, or free this one") from error


def make_folder_of(url: str) -> None:
    """``make_folder`` for the file ``url``; ``UserError`` when that is a folder."""
    fs, path = filesystem(url)
    local = isinstance(fs, LocalFileSystem)
    if local and os.path.isdir(path):
        raise UserError(f"'{url}' is no name of a file to write; give one")
    make_folder(posixpath.dirname(path) if local else url)


def write_bytes(url: str, data: bytes) -> None:
    """Atomic: a reader sees the old file or the new one. Object stores are so by nature; local files by rename.

    ``UserError`` with what is needed when the disk is full.
    """
    fs, path = filesystem(url)
    parent = posixpath.dirname(path)
    if not isinstance(fs, LocalFileSystem):
        with reaching(url):
            if parent:
                fs.makedirs(parent, exist_ok=True)
            fs.pipe_file(path, data)
        return
    if parent:
        fs.makedirs(parent, exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(url, path, len(data)) from error
        raise


def _full(url: str, path: str, size: int) -> UserError:
    free = shutil.disk_usage(posixpath.dirname(path) or ".").free
    return UserError(
        f"the disk of '{url}' is full: {size:,} bytes are needed and {free:,} are free; make room and run the same "
        "again (what was there is as it was)"
    )


def is_torn(name: str) -> bool:
    """Whether a file of that name is what ``write_bytes`` left behind when it was killed."""
    return bool(_TORN.fullmatch(name))


def remove_torn(folder: str) -> None:
    """Remove what killed processes left directly in ``folder``; only for whoever alone writes there."""
    fs, path = filesystem(folder)
    if isinstance(fs, LocalFileSystem) and fs.isdir(path):
        for name in filter(is_torn, os.listdir(path)):
            fs.rm_file(posixpath.join(path, name))


def write_text(url: str, text: str) -> None:
    write_bytes(url, text.encode())
