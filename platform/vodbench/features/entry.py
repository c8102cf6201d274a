"""One snippet's encoded frames as one file: arrays that can be mapped, and what they mean, under one checksum.

::

    "VODFEAT1"   arrays, each at a multiple of 64 bytes   index (JSON)   its length   SHA-256 of all this   "VODFEAT1"

The index says what the entry belongs to (``about``) and, frame by frame, the record as plain data and the stage times
that were measured when it was made. A file that is cut short, damaged, or of something else is not opened.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from vodbench.features.records import Array, UnfitError, from_plain, numeric, to_plain

MAGIC = b"VODFEAT1"
ALIGNMENT = 64

_LENGTH = struct.Struct("<Q")
_DIGEST = hashlib.sha256().digest_size
_TAIL = _LENGTH.size + _DIGEST + len(MAGIC)

StageTimes = dict[str, float]  # stage -> milliseconds


class EntryWriter:
    """Writes frames one after the other through ``write`` (of a file, say); ``finish`` makes the entry whole.

    ``half``: see ``to_plain``.
    """

    def __init__(self, write: Callable[[bytes], object], about: Mapping[str, str], *, half: bool) -> None:
        self._write, self._about, self._half = write, dict(about), half
        self._digest, self._size = hashlib.sha256(), 0
        self._frames: list[Any] = []
        self._put(MAGIC)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, record: Any, stage_ms: Mapping[str, float]) -> None:
        plain = to_plain(record, self._keep, half=self._half)
        self._frames.append({"record": plain, "stage_ms": dict(stage_ms)})

    def finish(self) -> None:
        index = json.dumps({"about": self._about, "frames": self._frames}).encode()
        self._put(index)
        self._put(_LENGTH.pack(len(index)))
        self._write(self._digest.digest() + MAGIC)

    def _keep(self, array: Array) -> list[Any]:
        self._put(bytes(-self._size % ALIGNMENT))
        start = self._size
        self._put(np.ascontiguousarray(array).tobytes())
        return [start, array.dtype.str, list(array.shape)]

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._digest.update(data)
        self._size += len(data)


class Entry:
    """A whole entry, mapped into memory."""

    def __init__(self, memory: mmap.mmap, frames: list[Any]) -> None:
        self._memory, self._frames = memory, frames

    @staticmethod
    def open(path: str, about: Mapping[str, str]) -> Entry | None:
        """The entry in the local file ``path``; None when it is gone, damaged, or about something else."""
        try:
            with open(path, "rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # evicted a moment ago, or empty
            return None
        index = _index(memory)
        if index is None or index.get("about") != dict(about) or not isinstance(index.get("frames"), list):
            memory.close()
            return None
        return Entry(memory, index["frames"])

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, number: int, kind: type, device: torch.device) -> tuple[Any, StageTimes]:
        """The record, in memory of its own, and the stage times of one frame. ``UnfitError``: of another kind."""
        stored = self._frames[number]
        return from_plain(kind, stored["record"], self._fetch, device), dict(stored["stage_ms"])

    def close(self) -> None:
        self._memory.close()

    def _fetch(self, where: Any) -> Array:
        start, name, shape = where
        dtype, count = numeric(name), int(np.prod(shape, dtype=np.int64))
        if start + count * dtype.itemsize > len(self._memory):
            raise UnfitError("an array beyond the end of its file")
        # A copy, because arrays that look into the mapping would keep it from being closed.
        return np.frombuffer(self._memory, dtype, count, start).reshape(shape).copy()


def _index(memory: mmap.mmap) -> dict[str, Any] | None:
    """The index of an undamaged file."""
    size = len(memory)
    if size < len(MAGIC) + _TAIL or memory[: len(MAGIC)] != MAGIC or memory[-len(MAGIC) :] != MAGIC:
        return None
    end = size - _DIGEST - len(MAGIC)
    with memoryview(memory) as view, view[:end] as content:
        if hashlib.sha256(content).digest() != memory[end : end + _DIGEST]:
            return None
    (length,) = _LENGTH.unpack(memory[end - _LENGTH.size : end])
    index = json.loads(memory[end - _LENGTH.size - length : end - _LENGTH.size])
    return index if isinstance(index, dict) else None
