"""Whether a shard found on disk is one that an interrupted run of the same job finished."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from vodbench.spec import SnippetInfo
from vodbench.storage import exists, read_bytes
from vodbench_datasets.shards.build import BuiltShard, SnippetTally, shard_record
from vodbench_datasets.shards.digests import image_digest, truth_digest
from vodbench_datasets.shards.layout import GROUP_FRAMES, IMAGE_DIGEST, JOB_KEY, SNIPPETS_KEY, TRUTH_DIGEST
from vodbench_datasets.shards.rows import UNREADABLE, to_frames


class _UnsoundError(Exception):
    """The shard is not what this job would have written here."""


def check_shard(url: str, job: str, pending: Iterable[SnippetInfo]) -> BuiltShard | None:
    """The shard as if it had just been built, or None when it is absent, altered or of another job.

    pending: the snippets that come next; a sound shard holds the first of them, every row matching its digests.
    """
    if not exists(url):
        return None
    data = read_bytes(url)
    try:
        return _check(url.rpartition("/")[2], data, job, pending)
    except (_UnsoundError, *UNREADABLE):
        return None  # not an error: the shard is written again


def _check(name: str, data: bytes, job: str, pending: Iterable[SnippetInfo]) -> BuiltShard:
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    metadata = file.metadata.metadata or {}
    if metadata.get(JOB_KEY.encode()) != job.encode():
        raise _UnsoundError
    ids = json.loads(metadata[SNIPPETS_KEY.encode()])
    infos = list(islice(pending, len(ids)))
    if not ids or ids != [info.id for info in infos]:
        raise _UnsoundError
    group = 0
    snippets = []
    for info in infos:
        tally = SnippetTally(info, group)
        for low in range(0, info.num_frames, GROUP_FRAMES):
            table = file.read_row_group(group)
            if table.num_rows != min(GROUP_FRAMES, info.num_frames - low):  # of a run before groups had this size
                raise _UnsoundError
            _add_rows(tally, table)
            group += 1
        snippets.append(tally.result())
    if group != file.num_row_groups:
        raise _UnsoundError
    return BuiltShard(shard_record(name, data, snippets), tuple(snippets))


def _add_rows(tally: SnippetTally, table: pa.Table) -> None:
    stored = zip(table.column(IMAGE_DIGEST).to_pylist(), table.column(TRUTH_DIGEST).to_pylist(), strict=True)
    for frame, digests in zip(to_frames(table), stored, strict=True):
        if digests != (image_digest(frame), truth_digest(frame)):
            raise _UnsoundError
        tally.add(frame)
