"""Clips as Arrow blocks: what Ray Data moves. One row is one whole clip, so nothing can split a clip.

Images stay encoded on the way: decoded they are ten to fifty times as large, and decoding inside Ray Data's tasks
halves the throughput (the pixels go through shared memory). A frame that a clip uses twice travels once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
import pyarrow as pa

from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.spec import Clip, ClipFrame, Dataset, Floats, Frame, Truth
from vodbench_datasets.clips.flow import MotionSource, with_motion
from vodbench_datasets.clips.plan import PlannedClip
from vodbench_datasets.frames import FRAME_TYPE, from_columns, to_structs
from vodbench_datasets.motion import Motion, flow_between

SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("snippet", pa.string()),
        pa.field("reference", pa.int32()),
        pa.field("supports", pa.list_(pa.int32())),
        pa.field("flip", pa.bool_()),
        pa.field("category", pa.int64()),
        pa.field("frames", pa.list_(FRAME_TYPE)),  # the distinct frames of the clip, reference first
        pa.field("error", pa.string()),  # alone in its row: what a person has to repair before the clip can be read
    ]
)


def read_block(
    dataset: Dataset, split: str, planned: Iterable[PlannedClip], *, flow: bool = False, labels: bool = True
) -> pa.Table:
    """The encoded frames and truths of these clips, one row a clip, in the given order.

    With ``flow`` (of a ``MotionSource`` only) also what their flow is computed from when they are decoded; without
    ``labels`` truths are empty: no method can see by accident what it is not meant to know.
    """
    clips = list(planned)
    frames: list[Frame] = []
    bounds = [0]
    for clip in clips:
        read = dataset.read(split, clip.snippet, list(dict.fromkeys(clip.indices)))
        if not labels:
            read = [replace(frame, truth=Truth.empty()) for frame in read]
        frames += with_motion(cast(MotionSource, dataset), split, clip.snippet, read) if flow else read
        bounds.append(len(frames))
    return pa.table(
        {
            "number": [clip.number for clip in clips],
            "snippet": [clip.snippet for clip in clips],
            "reference": [clip.reference for clip in clips],
            "supports": [clip.supports for clip in clips],
            "flip": [clip.flip for clip in clips],
            "category": [clip.category for clip in clips],
            "frames": pa.ListArray.from_arrays(pa.array(np.array(bounds, np.int32)), to_structs(frames)),
            "error": pa.nulls(len(clips), pa.string()),
        },
        schema=SCHEMA,
    )


def error_block(error: UserError) -> pa.Table:
    """An error that travels as data: Ray would bury its one line under a traceback and log it twice."""
    return pa.Table.from_pylist([{"error": str(error), "frames": []}], schema=SCHEMA)


def decode_block(table: pa.Table) -> Iterator[Clip]:
    """The clips of a block, decoded one at a time; ``UserError`` for a frame that does not decode or an error block."""
    lists = table.column("frames").combine_chunks()
    counts = lists.value_lengths().to_pylist()
    rows = table.drop_columns(["frames"]).to_pylist()
    snippets = [row["snippet"] for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    frames = iter(from_columns(lists.flatten().field, snippets, with_motion=True))
    for row, count in zip(rows, counts, strict=True):
        if row["error"] is not None:
            raise UserError(row["error"])
        yield _decode_clip(row, list(islice(frames, count)))


def _decode_clip(row: Mapping[str, Any], frames: Sequence[Frame]) -> Clip:
    decoded = {
        frame.index: ClipFrame(frame.index, decode(frame.encoded, _where(frame)), frame.truth) for frame in frames
    }
    flows = _flows(frames, row["reference"])
    shown = {index: replace(decoded[index], flow=flow) for index, flow in flows.items()} or decoded
    supports = tuple(shown[index] for index in row["supports"])
    return Clip(row["number"], row["snippet"], decoded[row["reference"]], supports, row["flip"], row["category"])


def _flows(frames: Sequence[Frame], reference: int) -> dict[int, Floats]:
    """Frame -> flow to it from the reference frame; empty where flow was not asked for."""
    motions = {frame.index: Motion.decode(frame.motion, _where(frame)) for frame in frames if frame.motion}
    return {index: flow_between(motions[reference], motion) for index, motion in motions.items()}


def _where(frame: Frame) -> str:
    return f"{frame.snippet}, frame {frame.index}"
