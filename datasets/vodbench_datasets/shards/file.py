"""An open shard: which row groups a read asks for, and through whom."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import OneLineError
from vodbench.storage import filesystem
from vodbench_datasets.frames import ENCODED
from vodbench_datasets.shards.native import is_ready, open_natively, pause
from vodbench_datasets.shards.rows import UNREADABLE, open_parquet, reading_shard

# What a request costs, in bytes that arrive in the same processor time (a gateway's included): 1.8 ms, 1.5 ms a MiB.
_REQUEST_BYTES = 2**20


class ShardFile:
    """A shard to read row groups from. Not for several threads at a time: it has one read position.

    What is in S3 is read by Arrow's own client, and by fsspec for a while when that has failed: errors, and the
    patience before them, are those of fsspec wherever the shard is.

    Raises:
        UserError: it is missing or damaged.
        OutOfReachError: its store is away.
    """

    def __init__(self, url: str, num_bytes: int) -> None:
        self._url = url
        self._fs, self._path = filesystem(url)
        self._open()
        far = not isinstance(self._fs, LocalFileSystem)
        self._gap = _REQUEST_BYTES * self._file.num_row_groups // max(num_bytes, 1) if far else 0

    @property
    def column_names(self) -> list[str]:
        return list(self._file.schema_arrow.names)

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """These columns of these row groups, which are in order, and from afar also of few groups between them: images
        are most of a shard, and two requests for what lies close together cost more than what is between."""
        asked = bridged(groups, self._gap) if ENCODED in columns else groups
        if self._is_native != is_ready(self._fs, self._path):
            self._reopen()
        if self._is_native:
            try:
                return self._rows(asked, columns)
            except UNREADABLE:
                pause(self._fs)
                self._reopen()
        with reading_shard(self._url):
            return self._rows(asked, columns)

    def close(self) -> None:
        self._file.close(force=True)

    def _rows(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        return self._file.read_row_groups(groups, columns=columns, use_threads=False)

    def _open(self) -> None:
        native = self._open_natively()
        self._is_native = native is not None
        self._file = native or open_parquet(self._url)

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _open_natively(self) -> pq.ParquetFile | None:
        with reading_shard(self._url):
            source = open_natively(self._fs, self._path)
        try:
            return None if source is None else open_parquet(self._url, source)
        except OneLineError:  # of the footer: fsspec reads it again, and has the last word
            pause(self._fs)
            return None


def bridged(groups: Sequence[int], gap: int) -> list[int]:
    """``groups``, in order, with what lies between two of them where that is at most ``gap`` groups."""
    filled = list(groups[:1])
    for group in groups[1:]:
        between = range(filled[-1] + 1, group)
        filled += [*(between if len(between) <= gap else ()), group]
    return filled
