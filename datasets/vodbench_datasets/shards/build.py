"""One shard in the making. It is built in memory and written in one piece: half a shard is never seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from vodbench.errors import UserError
from vodbench.spec import Frame, SnippetInfo
from vodbench_datasets.shards.digests import image_digest, snippet_fingerprint, truth_digest
from vodbench_datasets.shards.layout import (
    GROUP_FRAMES,
    JOB_KEY,
    ROWS,
    ROWS_WITH_MOTION,
    SNIPPETS_KEY,
    ShardRecord,
    SnippetRecord,
)
from vodbench_datasets.shards.rows import parquet_writer, to_table


@dataclass(frozen=True, slots=True)
class BuiltSnippet:
    """What a shard says of one of its snippets."""

    id: str
    frames: int
    boxes: int
    still: bool
    row_group: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class BuiltShard:
    """A finished shard: its line in the index, and its snippets in order."""

    record: ShardRecord
    snippets: tuple[BuiltSnippet, ...]

    def snippet_records(self, shard: int) -> list[SnippetRecord]:
        """The lines of the index, for the shard that is number ``shard`` there."""
        return [
            SnippetRecord(
                id=snippet.id,
                frames=snippet.frames,
                boxes=snippet.boxes,
                still=snippet.still,
                shard=shard,
                row_group=snippet.row_group,
                fingerprint=snippet.fingerprint,
            )
            for snippet in self.snippets
        ]


class ShardBuilder:
    """``add`` whole snippets, each in chunks of frames in order; then ``finish``.

    motion: whether the frames come with their records of motion.
    """

    def __init__(self, job: str, name: str, *, motion: bool = False) -> None:
        self._schema = ROWS_WITH_MOTION if motion else ROWS
        self._job = job
        self._name = name
        self._sink = pa.BufferOutputStream()
        self._writer = parquet_writer(self._sink, self._schema)
        self._tallies: list[SnippetTally] = []
        self._groups = 0

    @property
    def num_bytes(self) -> int:
        return int(self._sink.tell())

    def add(self, snippet: SnippetInfo, frames: Sequence[Frame]) -> None:
        """The next frames of a snippet; all chunks but its last are a multiple of ``GROUP_FRAMES`` long."""
        if not self._tallies or self._tallies[-1].info.id != snippet.id:
            self._tallies.append(SnippetTally(snippet, self._groups))
        for frame in frames:
            self._tallies[-1].add(frame)
        if frames:  # a snippet without frames is listed and has no rows
            self._writer.write_table(to_table(frames, self._schema), row_group_size=GROUP_FRAMES)
        self._groups += -(-len(frames) // GROUP_FRAMES)

    def finish(self) -> tuple[bytes, BuiltShard]:
        snippets = tuple(tally.result() for tally in self._tallies)
        ids = json.dumps([snippet.id for snippet in snippets])
        self._writer.add_key_value_metadata({JOB_KEY: self._job, SNIPPETS_KEY: ids})
        self._writer.close()
        data = self._sink.getvalue().to_pybytes()
        return data, BuiltShard(shard_record(self._name, data, snippets), snippets)


class SnippetTally:
    """Counts and fingerprints the frames of one snippet as they pass."""

    def __init__(self, info: SnippetInfo, row_group: int) -> None:
        self.info = info
        self._row_group = row_group
        self._boxes = 0
        self._digests: list[tuple[bytes, bytes]] = []

    def add(self, frame: Frame) -> None:
        """``UserError`` when the frame is not the next one: a source that skips frames would shift all others."""
        if (frame.snippet, frame.index) != (self.info.id, len(self._digests)):
            raise UserError(
                f"the data set gave frame {frame.index} of '{frame.snippet}' for frame {len(self._digests)} of "
                f"'{self.info.id}'; its listing and its frames disagree"
            )
        self._boxes += len(frame.truth.labels)
        self._digests.append((image_digest(frame), truth_digest(frame)))

    def result(self) -> BuiltSnippet:
        if len(self._digests) != self.info.num_frames:
            raise UserError(
                f"the data set lists {self.info.num_frames} frames for '{self.info.id}' and gave {len(self._digests)}"
            )
        fingerprint = snippet_fingerprint(self._digests)
        return BuiltSnippet(
            self.info.id, self.info.num_frames, self._boxes, self.info.still, self._row_group, fingerprint
        )


def shard_record(name: str, data: bytes, snippets: Sequence[BuiltSnippet]) -> ShardRecord:
    rows = sum(snippet.frames for snippet in snippets)
    return ShardRecord(file=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=rows)
