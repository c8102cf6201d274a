"""Frames of whole snippets, in order, as Arrow blocks: one row is one encoded frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from vodbench.errors import UserError
from vodbench.spec import Dataset, Frame, SnippetInfo
from vodbench_datasets.frames import FIELDS, from_columns, to_columns

RUN_FRAMES = 32  # frames a task reads: a few MB of JPEG, and its ~10 ms overhead is small beside detecting them

SCHEMA = pa.schema(
    [
        pa.field("snippet", pa.string()),
        *(pa.field(field.name, field.type) for field in FIELDS),
        pa.field("error", pa.string()),  # alone in its row: what a person has to repair before frames can be read
    ]
)


@dataclass(frozen=True, slots=True)
class FrameRun:
    """Frames that one task reads: consecutive ones of a long snippet, or several short snippets."""

    parts: tuple[tuple[str, range], ...]  # (snippet, its frames)

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)


def frame_runs(snippets: Sequence[SnippetInfo], size: int = RUN_FRAMES) -> list[FrameRun]:
    """All frames of these snippets in order, in runs of at most ``size``.

    A long snippet is cut at multiples of ``size``, where shards begin a row group.
    """
    runs: list[FrameRun] = []
    waiting: list[tuple[str, range]] = []
    room = size
    for snippet in snippets:
        for low in range(0, snippet.num_frames, size):
            indices = range(low, min(low + size, snippet.num_frames))
            if len(indices) > room:
                runs.append(FrameRun(tuple(waiting)))
                waiting, room = [], size
            waiting.append((snippet.id, indices))
            room -= len(indices)
    return [*runs, FrameRun(tuple(waiting))] if waiting else runs


def read_run(dataset: Dataset, split: str, run: FrameRun) -> pa.Table:
    """The encoded frames of a run, one row each."""
    frames = [frame for snippet, indices in run.parts for frame in dataset.read(split, snippet, indices)]
    columns = {"snippet": [frame.snippet for frame in frames], **to_columns(frames)}
    return pa.table({**columns, "error": pa.nulls(len(frames), pa.string())}, schema=SCHEMA)


def error_run(error: UserError) -> pa.Table:
    """An error that travels as data: Ray would bury its one line under a traceback and log it twice."""
    return pa.Table.from_pylist([{"error": str(error)}], schema=SCHEMA)


def frames_of(table: pa.Table) -> Iterator[Frame]:
    """The frames of a block; ``UserError`` for an error block."""
    for batch in table.combine_chunks().to_batches():
        for error in batch.column("error").drop_null().to_pylist():
            raise UserError(error)
        yield from from_columns(batch.column, batch.column("snippet").to_pylist())
