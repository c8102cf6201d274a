"""Writing shards: deterministic, so that an interrupted run continues with what it would have written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Protocol, cast

import vodbench
from vodbench.errors import UserError, unknown
from vodbench.fingerprint import fingerprint
from vodbench.prefetch import prefetch
from vodbench.spec import Dataset, Frame, SnippetInfo
from vodbench.storage import join, write_bytes, write_text
from vodbench_datasets.clips.flow import MotionSource, carries_motion, with_motion
from vodbench_datasets.shards.build import BuiltShard, ShardBuilder
from vodbench_datasets.shards.check import check_shard
from vodbench_datasets.shards.destination import check_apart, claim, release, shard_name
from vodbench_datasets.shards.layout import (
    GROUP_FRAMES,
    INDEX,
    SCHEMA_VERSION,
    ClassRecord,
    Counts,
    Index,
    ShardRecord,
    SnippetRecord,
    data_fingerprint,
)

SHARD_BYTES = 256 * 2**20
_CHUNK_FRAMES = 16 * GROUP_FRAMES  # frames read at a time: a long snippet is never whole in memory as objects
_CHUNKS_AHEAD = 2

Progress = Callable[[int, int], None]  # snippets done, snippets in all


class ShardSource(Dataset, Protocol):
    """A data set that also names the frames its protocol trains on; both shipped readers do."""

    def training_frames(self, split: str) -> list[tuple[str, int]]: ...

    @property
    def fingerprint_is_sampled(self) -> bool: ...


@dataclass(frozen=True)
class _Job:
    """One call of ``write_shards``; ``id`` names everything that decides what is written."""

    source: ShardSource
    destination: str
    splits: tuple[str, ...]
    shard_bytes: int
    id: str
    training_frames: dict[str, tuple[tuple[str, tuple[int, ...]], ...]]
    moving: tuple[str, ...]  # the splits whose frames come with records of motion


def write_shards(
    dataset: ShardSource,
    dst: str,
    *,
    splits: Sequence[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    provenance: Mapping[str, str] | None = None,
    on_progress: Progress | None = None,
) -> Index:
    """Copy a data set into Parquet shards below ``dst`` (a folder or fsspec URL).

    Killed at any moment and called again with the same arguments, it keeps the finished shards (after checking them)
    and ends with the same files. A reader sees no shards before all are there: the index is written last.

    Args:
        dataset: what to copy; images stay byte for byte as they are.
        dst: an empty or new folder, or one where the same call was interrupted.
        splits: some of ``dataset.splits``; all when None.
        shard_bytes: a shard ends with the first snippet that takes it to this size.
        provenance: further facts for the index.
        on_progress: called after every snippet.

    Raises:
        UserError: an unknown split; ``dst`` inside the data, or holding anything else; a bad frame of the source.
    """
    job = _plan(dataset, dst, splits, shard_bytes)
    finished = claim(dst, job.id)
    if finished is not None:
        return finished
    snippets = {split: list(dataset.snippets(split)) for split in job.splits}
    total = sum(map(len, snippets.values()))
    shards: list[ShardRecord] = []
    records: dict[str, tuple[SnippetRecord, ...]] = {}
    done = 0
    for split in job.splits:
        found: list[SnippetRecord] = []
        for built in _shards_of(job, split, snippets[split]):
            found += built.snippet_records(len(shards))
            shards.append(built.record)
            done += len(built.snippets)
            if on_progress is not None:
                on_progress(done, total)
        records[split] = tuple(found)
    index = _index(job, tuple(shards), records, provenance or {})
    write_text(join(dst, INDEX), index.to_json())
    release(dst)
    return index


def _plan(dataset: ShardSource, dst: str, splits: Sequence[str] | None, shard_bytes: int) -> _Job:
    if not hasattr(dataset, "training_frames"):
        raise UserError(f"data set '{dataset.name}' cannot be sharded: it has no training_frames(split)")
    check_apart(dataset.root, dst)
    if shard_bytes < 1:
        raise UserError(f"shard size {shard_bytes} is not accepted; give a number of bytes above 0")
    chosen = tuple(dict.fromkeys(dataset.splits if splits is None else splits))
    for split in chosen:
        if split not in dataset.splits:
            raise unknown("split", split, dataset.splits)
    training_frames = {split: _runs(dataset.training_frames(split)) for split in chosen}
    moving = tuple(split for split in chosen if carries_motion(dataset, split))
    content = (dataset.fingerprint, chosen, shard_bytes, training_frames)
    id = fingerprint(SCHEMA_VERSION, *content, *([moving] if moving else []))
    return _Job(dataset, dst, chosen, shard_bytes, id, training_frames, moving)


def _runs(frames: Iterable[tuple[str, int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Consecutive frames of one snippet together: a tenth of the size, and the order stays."""
    runs = groupby(frames, key=lambda frame: frame[0])
    return tuple((snippet, tuple(index for _, index in run)) for snippet, run in runs)


def _shards_of(job: _Job, split: str, snippets: Iterable[SnippetInfo]) -> Iterator[BuiltShard]:
    """The shards of a split, each kept if it is there and sound, else written."""
    pending = deque(snippets)
    number = 0
    while pending:
        url = join(job.destination, shard_name(split, number))
        built = check_shard(url, job.id, pending)
        if built is None:
            data, built = _build(job, split, pending, shard_name(split, number))
            write_bytes(url, data)
        for _ in built.snippets:
            pending.popleft()
        yield built
        number += 1


def _build(job: _Job, split: str, pending: Iterable[SnippetInfo], name: str) -> tuple[bytes, BuiltShard]:
    builder = ShardBuilder(job.id, name, motion=split in job.moving)
    chunks = prefetch(partial(_chunks, job, split, pending), _CHUNKS_AHEAD)
    with closing(chunks):
        for snippet, frames, is_last in chunks:
            builder.add(snippet, frames)
            if is_last and builder.num_bytes >= job.shard_bytes:
                break
    return builder.finish()


def _chunks(job: _Job, split: str, snippets: Iterable[SnippetInfo]) -> Iterator[tuple[SnippetInfo, list[Frame], bool]]:
    """(snippet, its next frames, whether they are its last)."""
    for snippet in snippets:
        for low in range(0, max(snippet.num_frames, 1), _CHUNK_FRAMES):
            high = min(low + _CHUNK_FRAMES, snippet.num_frames)
            frames = job.source.read(split, snippet.id, range(low, high))
            if split in job.moving:
                frames = with_motion(cast(MotionSource, job.source), split, snippet.id, frames)
            yield snippet, frames, high == snippet.num_frames


def _index(
    job: _Job,
    shards: tuple[ShardRecord, ...],
    snippets: dict[str, tuple[SnippetRecord, ...]],
    provenance: Mapping[str, str],
) -> Index:
    source = job.source
    content = [[record.fingerprint for record in records] for records in snippets.values()]
    data = data_fingerprint(source.fingerprint, job.splits, source.splits, source.fingerprint_is_sampled, content)
    origin = {"source": source.root, "source_kind": source.name, "source_fingerprint": source.fingerprint}
    return Index(
        job=job.id,
        fingerprint=data,
        classes=tuple(ClassRecord(id=info.id, name=info.name) for info in source.classes),
        provenance={"vodbench": vodbench.__version__, **origin, **provenance},
        group_frames=GROUP_FRAMES,
        counts={split: _count(records) for split, records in snippets.items()},
        shards=shards,
        snippets=snippets,
        training_frames=job.training_frames,
    ).sealed()


def _count(records: Sequence[SnippetRecord]) -> Counts:
    return Counts(
        snippets=len(records),
        frames=sum(record.frames for record in records),
        boxes=sum(record.boxes for record in records),
    )
