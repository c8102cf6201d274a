"""Frames as Arrow columns: the one form in which encoded frames and their truth are stored and moved.

A frame is a row. Images stay encoded; boxes are flat lists of 4 M floats, because a plain list survives slicing and
Parquet with one level of offsets. Floats keep their width, so a round trip is bit-exact. The record of motion is a
column of its own, there only where flow may be asked for; null in it stands for none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vodbench.spec import Frame, Truth

FIELDS: tuple[pa.Field, ...] = (
    pa.field("index", pa.int32(), nullable=False),
    pa.field("encoded", pa.binary(), nullable=False),
    pa.field("boxes", pa.list_(pa.float32()), nullable=False),
    pa.field("labels", pa.list_(pa.int64()), nullable=False),
    pa.field("track_ids", pa.list_(pa.int64()), nullable=False),
    pa.field("occluded", pa.list_(pa.bool_()), nullable=False),
    pa.field("generated", pa.list_(pa.bool_()), nullable=False),
    pa.field("deteriorations", pa.map_(pa.string(), pa.float64()), nullable=False),
)
ENCODED = "encoded"
MOTION = pa.field("motion", pa.binary())
_STRUCT = (*FIELDS, MOTION)
FRAME_TYPE = pa.struct(_STRUCT)


def to_columns(frames: Sequence[Frame]) -> dict[str, pa.Array]:
    """The columns ``FIELDS`` and ``MOTION`` of these frames, one row each (the snippet's name is not among them)."""
    truths = [frame.truth for frame in frames]
    return {
        "index": pa.array([frame.index for frame in frames], pa.int32()),
        "encoded": pa.array([frame.encoded for frame in frames], pa.binary()),
        "boxes": _lists([truth.boxes.reshape(-1) for truth in truths], pa.float32()),
        "labels": _lists([truth.labels for truth in truths], pa.int64()),
        "track_ids": _lists([truth.track_ids for truth in truths], pa.int64()),
        "occluded": _lists([truth.occluded for truth in truths], pa.bool_()),
        "generated": _lists([truth.generated for truth in truths], pa.bool_()),
        "deteriorations": pa.array([sorted(frame.deteriorations.items()) for frame in frames], FIELDS[-1].type),
        MOTION.name: pa.array([frame.motion or None for frame in frames], MOTION.type),
    }


def to_structs(frames: Sequence[Frame]) -> pa.StructArray:
    """The same rows as one array of ``FRAME_TYPE``."""
    columns = to_columns(frames)
    return pa.StructArray.from_arrays([columns[field.name] for field in _STRUCT], fields=list(_STRUCT))


def from_columns(
    column: Callable[[str], pa.Array], snippets: Sequence[str], *, with_images: bool = True, with_motion: bool = False
) -> list[Frame]:
    """Frames of rows; ``column(name)`` gives a column of ``FIELDS`` (and ``MOTION`` where it is wanted), ``snippets``
    the name for each row."""
    truths = _truths(column)
    indices = column("index").to_numpy().tolist()
    images = column(ENCODED).to_pylist() if with_images else [b""] * len(indices)
    deteriorations = column("deteriorations").to_pylist()
    motions = [record or b"" for record in column(MOTION.name).to_pylist()] if with_motion else [b""] * len(indices)
    rows = zip(snippets, indices, images, truths, map(dict, deteriorations), motions, strict=True)
    return [Frame(*row) for row in rows]


def _truths(column: Callable[[str], pa.Array]) -> list[Truth]:
    boxes = [row.reshape(-1, 4) for row in _rows(column("boxes"))]
    rest = (_rows(column(name)) for name in ("labels", "track_ids", "occluded", "generated"))
    return [Truth(*row) for row in zip(boxes, *rest, strict=True)]


def _lists(rows: Sequence[npt.NDArray[Any]], value_type: pa.DataType) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int32)
    values = np.concatenate(rows) if rows else np.zeros(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, value_type))


def _rows(lists: pa.ListArray) -> list[npt.NDArray[Any]]:
    """A list column as one array a row; copied, because Arrow's buffers are read-only and live in shared memory."""
    values = np.array(lists.flatten().to_numpy(zero_copy_only=False))
    offsets = lists.offsets.to_numpy()
    return [values[low:high] for low, high in pairwise((offsets - offsets[0]).tolist())]
