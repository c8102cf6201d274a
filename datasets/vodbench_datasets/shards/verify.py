"""Finding what is missing, truncated or altered in a folder of shards, down to the row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from vodbench.storage import exists, join, read_bytes
from vodbench_datasets.shards.destination import files_in, is_leftover
from vodbench_datasets.shards.digests import image_digest, snippet_fingerprint, truth_digest
from vodbench_datasets.shards.layout import (
    IMAGE_DIGEST,
    INDEX,
    TRUTH_DIGEST,
    Index,
    SnippetRecord,
    read_index,
)
from vodbench_datasets.shards.rows import UNREADABLE, to_frames

_PARQUET_END = b"PAR1"


def verify_shards(root: str, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """What is wrong, one line each; empty when every byte is as it was written.

    Every shard is read whole. One whose bytes differ is searched row by row, so that the lines name snippet, frame and
    whether its image or its annotation changed. ``on_progress`` is called after every shard (done, in all).

    Raises:
        UserError: ``root`` holds no readable index.
    """
    index = read_index(root)
    if not index.is_as_written or read_bytes(join(root, INDEX)) != index.to_json().encode():
        return [f"{INDEX}: altered since it was written"]  # the shards are judged by it, so nothing else can be told
    problems: list[str] = []
    of_shard: list[list[SnippetRecord]] = [[] for _ in index.shards]
    for records in index.snippets.values():
        for record in records:
            of_shard[record.shard].append(record)
    for number, records_here in enumerate(of_shard):
        problems += _verify_shard(root, index, number, records_here)
        if on_progress is not None:
            on_progress(number + 1, len(of_shard))
    known = {shard.file for shard in index.shards}
    problems += [f"{name}: not in the index" for name in files_in(root) if name not in known and is_leftover(name)]
    return problems


def _verify_shard(root: str, index: Index, number: int, snippets: list[SnippetRecord]) -> list[str]:
    shard = index.shards[number]
    url = join(root, shard.file)
    if not exists(url):
        return [f"{shard.file}: missing ({shard.rows} frames of {len(snippets)} snippets)"]
    data = read_bytes(url)
    if hashlib.sha256(data).hexdigest() == shard.sha256:
        return []
    if len(data) < shard.bytes and not data.endswith(_PARQUET_END):  # a shorter file that ends well was rewritten
        return [f"{shard.file}: truncated ({len(data)} of {shard.bytes} bytes)"]
    found = list(_search(data, snippets, index.group_frames))
    if not found:
        found = ["every row is intact, the bytes around them are not"]
    return [f"{shard.file}: {problem}" for problem in found]


def _search(data: bytes, snippets: list[SnippetRecord], group_frames: int) -> Iterator[str]:
    """Problems inside a shard whose bytes are not those that were written."""
    try:  # without page checksums: a damaged page is read as it is, so that its row can be named
        file = pq.ParquetFile(pa.BufferReader(data))
        names = set(file.schema_arrow.names)
    except UNREADABLE as error:
        yield f"cannot be read as Parquet ({_line(error)})"
        return
    if not {"snippet", "index", IMAGE_DIGEST, TRUTH_DIGEST} <= names:
        yield "is a Parquet file, but not a shard"
        return
    rows: dict[tuple[str, int], tuple[bytes, bytes]] = {}
    unreadable: set[tuple[str, int]] = set()
    for group in range(file.num_row_groups):
        try:
            for snippet, frame, digests, problems in _rows(file.read_row_group(group)):
                yield from problems
                if (snippet, frame) in rows:
                    yield f"{snippet} frame {frame}: there twice"
                rows[snippet, frame] = digests
        except UNREADABLE as error:
            keys = list(_group_keys(snippets, group, group_frames))
            yield f"row group {group} ({_frames_of_group(keys)}) cannot be read ({_line(error)})"
            unreadable |= set(keys)
    yield from _compare(rows, unreadable, snippets)


def _rows(table: pa.Table) -> Iterator[tuple[str, int, tuple[bytes, bytes], list[str]]]:
    """(snippet, frame, stored digests, problems) of each row."""
    stored = zip(table.column(IMAGE_DIGEST).to_pylist(), table.column(TRUTH_DIGEST).to_pylist(), strict=True)
    for frame, digests in zip(to_frames(table), stored, strict=True):
        where = f"{frame.snippet} frame {frame.index}"
        problems = []
        if image_digest(frame) != digests[0]:
            problems.append(f"{where}: image altered")
        if truth_digest(frame) != digests[1]:
            problems.append(f"{where}: annotation altered")
        yield frame.snippet, frame.index, digests, problems


def _compare(
    rows: dict[tuple[str, int], tuple[bytes, bytes]],
    unreadable: set[tuple[str, int]],
    snippets: list[SnippetRecord],
) -> Iterator[str]:
    expected = {(snippet.id, frame) for snippet in snippets for frame in range(snippet.frames)}
    for snippet, frame in sorted(expected - set(rows) - unreadable):
        yield f"{snippet} frame {frame}: row missing"
    for snippet, frame in sorted(set(rows) - expected):
        yield f"{snippet} frame {frame}: row not in the index"
    for record in snippets:
        keys = [(record.id, frame) for frame in range(record.frames)]
        if all(key in rows for key in keys) and snippet_fingerprint(rows[key] for key in keys) != record.fingerprint:
            yield f"{record.id}: content differs from what the index says was written"


def _group_keys(snippets: list[SnippetRecord], group: int, group_frames: int) -> Iterator[tuple[str, int]]:
    for snippet in snippets:
        if snippet.row_group <= group < snippet.row_group + snippet.num_groups(group_frames):
            low = (group - snippet.row_group) * group_frames
            yield from ((snippet.id, frame) for frame in range(low, min(low + group_frames, snippet.frames)))


def _frames_of_group(keys: list[tuple[str, int]]) -> str:
    return f"{keys[0][0]} frames {keys[0][1]}-{keys[-1][1]}" if keys else "of no snippet in the index"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
