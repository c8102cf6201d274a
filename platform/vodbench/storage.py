"""Files on any fsspec URL, written whole or not at all."""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError

_TORN = re.compile(r".+\.[0-9a-f]{32}\.tmp")


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec file system, path inside it) of a local path or URL; ``UserError`` for a scheme nobody implements."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"'{url}' cannot be opened: {error}; give a local path or an s3://, gs://, az:// or memory:// URL"
        ) from error
    return fs, path


def join(root: str, *parts: str) -> str:
    """Join below a local path or URL."""
    return posixpath.join(root, *parts)


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """The file's content; ``UserError`` naming the file when it is not there."""
    fs, path = filesystem(url)
    try:
        return bytes(fs.cat_file(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"'{url}' does not exist or is not a file") from error


def read_text(url: str) -> str:
    return read_bytes(url).decode()


def write_bytes(url: str, data: bytes) -> None:
    """Atomic: a reader sees the old file or the new one. Object stores are so by nature; local files by rename."""
    fs, path = filesystem(url)
    parent = posixpath.dirname(path)
    if parent:
        fs.makedirs(parent, exist_ok=True)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


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
