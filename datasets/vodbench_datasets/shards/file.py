"""An open shard: which row groups a read asks for, and through whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import OneLineError
from vodbench.storage import filesystem
from vodbench_datasets.frames import ENCODED
from vodbench_datasets.shards.footer import Footer
from vodbench_datasets.shards.native import is_ready, open_natively, pause
from vodbench_datasets.shards.rows import UNREADABLE, reading_shard

# What a request costs, in bytes that arrive in the same processor time (a gateway's included): 1.8 ms, 1.5 ms a MiB.
_REQUEST_BYTES = 2**20

T = TypeVar("T")


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
        self._file: pa.NativeFile | None = None
        self._is_native = False
        self.is_far = not isinstance(self._fs, LocalFileSystem)
        self._footer = self._with_file(Footer.read)
        self._gap = _REQUEST_BYTES * self._footer.num_row_groups // max(num_bytes, 1) if self.is_far else 0

    @property
    def column_names(self) -> list[str]:
        return list(self._footer.column_names)

    def read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """These columns of these row groups, which are in order, and from afar also of few groups between them: images
        are most of a shard, and two requests for what lies close together cost more than what is between."""
        asked = bridged(groups, self._gap) if ENCODED in columns else groups
        return self._with_file(partial(self._rows, asked, columns))

    def close(self) -> None:
        """Gives the open file back; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _rows(self, groups: Sequence[int], columns: Sequence[str], source: pa.NativeFile) -> pa.Table:
        """Pages are checked as they are read, so damage never passes as data. From afar neighbours are one request."""
        metadata = self._footer.metadata(groups)
        file = pq.ParquetFile(source, metadata=metadata, pre_buffer=self.is_far, page_checksum_verification=True)
        return file.read_row_groups(range(len(groups)), columns=columns, use_threads=False)

    def _with_file(self, work: Callable[[pa.NativeFile], T]) -> T:
        if is_ready(self._fs, self._path):
            try:
                if self._open_natively():
                    return work(self._file)
            except (OneLineError, *UNREADABLE):  # fsspec reads it again, and has the last word
                pause(self._fs)
        with reading_shard(self._url):
            self._open_with_fsspec()
            return work(self._file)

    def _open_natively(self) -> bool:
        if self._file is None or not self._is_native:
            self.close()
            self._file = open_natively(self._fs, self._path)
            self._is_native = True
        return self._file is not None

    def _open_with_fsspec(self) -> None:
        """fsspec's read-ahead is off: Arrow asks for what it needs, in few pieces. A local file needs no fsspec."""
        if self._file is None or self._is_native:
            self.close()
            if self.is_far:
                self._file = pa.PythonFile(self._fs.open(self._path, "rb", cache_type="none"), mode="r")
            else:
                self._file = pa.OSFile(self._path, "rb")
            self._is_native = False


def bridged(groups: Sequence[int], gap: int) -> list[int]:
    """``groups``, in order, with what lies between two of them where that is at most ``gap`` groups."""
    filled = list(groups[:1])
    for group in groups[1:]:
        between = range(filled[-1] + 1, group)
        filled += [*(between if len(between) <= gap else ()), group]
    return filled
