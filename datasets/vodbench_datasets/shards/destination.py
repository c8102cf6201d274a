"""Whether a folder may be written to, and what is already in it."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.storage import exists, filesystem, is_torn, join, make_folder, read_bytes, remove_torn, write_text
from vodbench_datasets.shards.layout import INCOMPLETE, INDEX, SCHEMA_NAME, SCHEMA_VERSION, Index, is_ours, load_index

_SHARD = re.compile(r".+-\d{5}\.parquet")


def shard_name(split: str, number: int) -> str:
    return f"{split.replace('/', '-')}-{number:05d}.parquet"


def check_apart(source: str, destination: str) -> None:
    """``UserError`` when one is inside the other, or they are the same."""
    inner, outer = _absolute(destination), _absolute(source)
    if inner == outer or inner.startswith(f"{outer}/"):
        raise UserError(f"'{destination}' is inside the data it would copy ('{source}'); give a folder outside of it")
    if outer.startswith(f"{inner}/"):
        raise UserError(f"'{destination}' contains the data it would copy ('{source}'); give a folder of its own")


def claim(destination: str, job: str) -> Index | None:
    """Make the folder this job's; the finished index when there is nothing left to do.

    ``UserError`` when it holds shards of another job, or anything else. Nothing is written then.
    """
    index = _finished(destination, job)
    if index is not None and _all_there(destination, index):
        return index
    if index is None and not _is_unfinished(destination, job):
        _check_empty(destination)
        make_folder(destination)
        record = {"kind": SCHEMA_NAME, "version": SCHEMA_VERSION, "job": job}
        write_text(join(destination, INCOMPLETE), json.dumps(record, separators=(",", ":")) + "\n")
    remove_torn(destination)
    return None


def release(destination: str) -> None:
    """The index is written: the folder is no longer incomplete."""
    fs, path = filesystem(join(destination, INCOMPLETE))
    if fs.exists(path):
        fs.rm_file(path)


def files_in(root: str) -> dict[str, int | None]:
    """Name -> bytes of the files directly in a folder; empty when it does not exist. Folders have no size."""
    fs, path = filesystem(root)
    fs.invalidate_cache()
    if not exists(root):
        return {}
    entries = fs.ls(path, detail=True)
    names = {posixpath.basename(entry["name"].rstrip("/")): entry for entry in entries}
    return {name: _size(entry) for name, entry in sorted(names.items()) if entry["name"].rstrip("/") != path}


def is_leftover(name: str) -> bool:
    """Whether a file that no index names looks like part of shards: an earlier shard, or a torn write."""
    return bool(_SHARD.fullmatch(name)) or is_torn(name)


def _size(entry: dict[str, Any]) -> int | None:
    return None if entry["type"] == "directory" else int(entry["size"])


def _finished(destination: str, job: str) -> Index | None:
    if not exists(join(destination, INDEX)):
        return None
    try:
        record = json.loads(read_bytes(join(destination, INDEX)))
    except ValueError:
        record = None
    if not is_ours(record):
        raise _holds_something_else(destination, INDEX)
    _check_job(destination, record.get("job"), job)
    return load_index(destination)


def _is_unfinished(destination: str, job: str) -> bool:
    if not exists(join(destination, INCOMPLETE)):
        return False
    record = json.loads(read_bytes(join(destination, INCOMPLETE)))
    _check_job(destination, record.get("job"), job)
    return True


def _check_job(destination: str, found: Any, job: str) -> None:
    if found != job:
        raise UserError(
            f"'{destination}' holds shards of other data, splits or shard size (job {found}, this one is {job}); "
            "give another folder, or remove that one"
        )


def _check_empty(destination: str) -> None:
    names = [name for name in files_in(destination) if not is_torn(name)]
    if names:
        raise _holds_something_else(destination, names[0])


def _holds_something_else(destination: str, name: str) -> UserError:
    return UserError(f"'{destination}' is not empty and holds no shards (found '{name}'); give a new or empty folder")


def _all_there(destination: str, index: Index) -> bool:
    sizes = files_in(destination)
    return all(sizes.get(shard.file) == shard.bytes for shard in index.shards)


def _absolute(url: str) -> str:
    fs, path = filesystem(url)
    if isinstance(fs, LocalFileSystem):
        from os.path import realpath

        path = realpath(path)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return f"{protocol}:{path.rstrip('/')}"
