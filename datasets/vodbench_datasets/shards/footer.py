"""What is kept of a shard's footer: enough to make Parquet's metadata of any few row groups again.

A clip may come from any shard, and ImageNet VID is some 310 shards of 256 MiB. The footer of one, parsed by Arrow,
takes 11 MB and 6 ms; to keep all is too much, to parse one for every clip costs more than the clip. Here 0.1 MB of it
are kept, and Arrow is given a footer that lists the row groups of one read and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vodbench_datasets.shards.layout import ROWS, ROWS_WITH_MOTION

_MAGIC = b"PAR1"
_END_BYTES = 8  # the footer's length and the magic
# Read from the end of a file at once: a shard of VID's frames is 0.3% footer. A second read gets what is missing.
_LEAST_BYTES, _SHARE = 2**16, 256

# Thrift's compact protocol: a field is (distance from the field before, type), then its value.
_I32, _I64, _LIST, _STRUCT = 5, 6, 9, 12
_STOP = b"\x00"
_TYPES = {"BOOLEAN": 0, "INT32": 1, "INT64": 2, "FLOAT": 4, "DOUBLE": 5, "BYTE_ARRAY": 6, "FIXED_LEN_BYTE_ARRAY": 7}
_ENCODINGS = b"\x25\x06\x00"  # a list of two i32: RLE for levels, PLAIN for values
_INT32_MAX = 2**31 - 1


class Footer:
    """The row groups of a shard.

    Args:
        thrift: the footer's bytes, without its length and the magic.

    Raises:
        ValueError: it is not the footer of a shard: its columns are others, or lie otherwise than vodbench writes them.
        pyarrow.ArrowException, OSError: it is damaged.
    """

    def __init__(self, thrift: bytes) -> None:
        metadata = _parse(thrift)
        schema = pq.ParquetFile(pa.BufferReader(b""), metadata=metadata).schema_arrow.remove_metadata()
        if schema not in (ROWS, ROWS_WITH_MOTION):  # checksums are of pages: the footer is not covered by any
            raise ValueError("its columns are not those of a shard")
        self.column_names: list[str] = list(schema.names)
        self.num_row_groups: int = metadata.num_row_groups
        first = metadata.row_group(0)
        self._columns = [_column(first.column(number)) for number in range(metadata.num_columns)]
        self._column_list = _field(1, _LIST) + _list_header(metadata.num_columns, _STRUCT)
        groups = _group_list(metadata.num_rows, metadata.num_row_groups)
        self._head = thrift[: thrift.index(groups + self._column_list)]  # version and schema
        self._rows, self._starts, self._values, self._sizes = _places(metadata)

    @staticmethod
    def read(source: Any) -> Footer:
        """Of an open file; ``source`` is any that seeks and reads."""
        size = source.seek(0, 2)
        end = _last(source, min(max(_LEAST_BYTES, size // _SHARE), size))
        if len(end) < _END_BYTES or not end.endswith(_MAGIC):
            raise ValueError("it does not end as a Parquet file")
        wanted = int.from_bytes(end[-_END_BYTES : -len(_MAGIC)], "little") + _END_BYTES
        if not _END_BYTES < wanted <= size:
            raise ValueError("its footer is longer than the file")
        if wanted > len(end):
            end = _last(source, wanted)
        return Footer(end[-wanted:-_END_BYTES])

    def metadata(self, groups: Sequence[int]) -> pq.FileMetaData:
        """Parquet's metadata of a file that has these row groups, at the places where they are, and no others.

        ``IndexError`` for a group that is not there.
        """
        rows = sum(int(self._rows[group]) for group in groups)
        return _parse(b"".join([self._head, _group_list(rows, len(groups)), *map(self._group, groups), _STOP]))

    def _group(self, group: int) -> bytes:
        made = [self._column_list]
        place = int(self._starts[group])
        sizes = self._sizes[group].tolist()
        for column, values, size in zip(self._columns, self._values[group].tolist(), sizes, strict=True):
            length = _field(1, _I64) + _number(size)
            made += [column, _field(1, _I64), _number(values), length, length]  # compressed and not: the same
            made += [_field(2, _I64), _number(place), _STOP, _STOP]
            place += size
        rows = int(self._rows[group])
        made += [_field(1, _I64), _number(sum(sizes)), _field(1, _I64), _number(rows), _STOP]
        return b"".join(made)


def _parse(thrift: bytes) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(thrift + len(thrift).to_bytes(4, "little") + _MAGIC))


def _last(source: Any, num_bytes: int) -> bytes:
    source.seek(-num_bytes, 2)
    return bytes(source.read(num_bytes))


def _group_list(rows: int, count: int) -> bytes:
    """Of the file its number of rows, and the list of so many row groups up to the first."""
    return _field(1, _I64) + _number(rows) + _field(1, _LIST) + _list_header(count, _STRUCT)


def _places(metadata: pq.FileMetaData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every row group its rows and where it starts; of every column in it the number of values and of bytes."""
    columns = range(metadata.num_columns)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [
        [
            (chunk.data_page_offset, chunk.num_values, chunk.total_compressed_size)
            for chunk in map(group.column, columns)
        ]
        for group in groups
    ]
    offsets, values, sizes = np.moveaxis(np.array(chunks, np.int64), 2, 0)
    if (offsets[:, 1:] != offsets[:, :-1] + sizes[:, :-1]).any():
        raise ValueError("the columns of a row group do not follow each other")
    rows = np.array([group.num_rows for group in groups], np.int64)
    for numbers in (rows, values, sizes):
        if numbers.min() < 0 or numbers.max() > _INT32_MAX:
            raise ValueError("its footer has numbers that no shard has")
    return rows.astype(np.int32), offsets[:, 0], values.astype(np.int32), sizes.astype(np.int32)


def _column(chunk: pq.ColumnChunkMetaData) -> bytes:
    """What all chunks of a column say alike: field 2 (unused), and of 3 the start and its fields 1 to 4."""
    if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
        raise ValueError("its columns are compressed, or have dictionaries, unlike those of a shard")
    path = chunk.path_in_schema.encode().split(b".")
    names = _list_header(len(path), 8) + b"".join(bytes([len(name)]) + name for name in path)
    return (
        _field(2, _I64)
        + _number(0)
        + _field(1, _STRUCT)
        + (_field(1, _I32) + _number(_TYPES[chunk.physical_type]))
        + (_field(1, _LIST) + _ENCODINGS)
        + (_field(1, _LIST) + names)
        + (_field(1, _I32) + _number(0))
    )


def _field(distance: int, kind: int) -> bytes:
    return bytes([distance << 4 | kind])


def _list_header(count: int, kind: int) -> bytes:
    return bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _varint(count)


def _number(value: int) -> bytes:
    """A number that is not negative, zigzag encoded."""
    return _varint(value << 1)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
