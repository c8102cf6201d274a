"""A list of chunks as a Ray Data source: one read task a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask


class ChunkDatasource(Datasource):
    """Blocks ``read(chunk)`` for every chunk, in order; nothing is read before a task runs."""

    def __init__(self, read: Callable[[Any], pa.Table], chunks: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._read = read
        self._chunks = chunks

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [ReadTask(partial(_block, self._read, chunk), _metadata(chunk)) for chunk in self._chunks]

    def estimate_inmemory_data_size(self) -> int | None:
        return None


def _block(read: Callable[[Any], pa.Table], chunk: Any) -> list[pa.Table]:
    return [read(chunk)]


def _metadata(chunk: Any) -> BlockMetadata:
    return BlockMetadata(num_rows=len(chunk), size_bytes=None, exec_stats=None, input_files=None)
