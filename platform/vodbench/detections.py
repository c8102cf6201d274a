"""Detections of many frames: as flat arrays in memory, as one Parquet file on disk.

A file holds one row a frame - also for a frame in which nothing was found, because a frame that was looked at and
one that was skipped are not the same. Its metadata carries a schema version and the provenance: the fingerprints of
the data, weights and configuration that produced it, so that nobody scores it against something else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vodbench.errors import UserError
from vodbench.spec import Detections, Floats, Ints
from vodbench.storage import read_bytes, write_bytes

SCHEMA = 1

Int32s: TypeAlias = npt.NDArray[np.int32]
AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]

_METADATA = b"vodbench.detections"
_STAGE = "stage_ms."  # prefix of the stage-time columns
_BOX = pa.list_(pa.float32(), 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionSet:
    """The detections of F frames, N in all; frame f owns rows ``offsets[f]:offsets[f + 1]``.

    Raises ``ValueError`` when the arrays do not fit together.
    """

    snippet_ids: tuple[str, ...]
    snippet: Int32s  # (F,) index into snippet_ids
    frame: Int32s  # (F,) 0-based position in its snippet
    offsets: Ints  # (F + 1,)
    boxes: AnyFloats  # (N, 4) xyxy, pixels of the original frame; float32, or float64 from COCO files
    scores: AnyFloats  # (N,)
    labels: Int32s  # (N,) 1..C
    stage_ms: Mapping[str, Floats] = field(default_factory=dict)  # stage -> (F,) milliseconds; NaN: not measured
    provenance: Mapping[str, str] = field(default_factory=dict)  # e.g. data, weights, config fingerprints

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault:
            raise ValueError(f"inconsistent detections: {fault}")

    def __len__(self) -> int:
        """Number of frames F."""
        return len(self.frame)

    def detections(self, row: int) -> Detections:
        """What was found in the frame of that row."""
        own = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        boxes, scores = self.boxes[own].astype(np.float32), self.scores[own].astype(np.float32)
        return Detections(boxes, scores, self.labels[own].astype(np.int64))

    def stage_share(self) -> dict[str, float]:
        """Share of the frames on which each stage ran, of those where it was measured."""
        return {
            name: float((ms[~np.isnan(ms)] > 0).mean()) for name, ms in self.stage_ms.items() if np.isfinite(ms).any()
        }

    def rows_of(self, snippet_id: str) -> Ints:
        """Rows of one snippet's frames, in frame order; none when the snippet is not here."""
        if snippet_id not in self.snippet_ids:
            return np.zeros(0, np.int64)
        rows = np.flatnonzero(self.snippet == self.snippet_ids.index(snippet_id))
        return rows[np.argsort(self.frame[rows], kind="stable")]


class DetectionBuilder:
    """Collects frames in any order; ``build`` keeps the order in which they were added."""

    def __init__(self) -> None:
        self._snippets: dict[str, int] = {}
        self._frames: list[tuple[int, int]] = []
        self._seen: set[tuple[int, int]] = set()
        self._found: list[Detections] = []
        self._stage_ms: list[Mapping[str, float]] = []

    def add(
        self, snippet: str, frame: int, detections: Detections, stage_ms: Mapping[str, float] | None = None
    ) -> None:
        """Append one frame (``ValueError`` if it is there already); empty ``detections`` are a row too."""
        key = (self._snippets.setdefault(snippet, len(self._snippets)), frame)
        if key in self._seen:
            raise ValueError(f"frame {frame} of snippet '{snippet}' was added twice")
        self._seen.add(key)
        self._frames.append(key)
        self._found.append(detections)
        self._stage_ms.append(stage_ms or {})

    def build(self, provenance: Mapping[str, str] | None = None) -> DetectionSet:
        where = np.array(self._frames, np.int32).reshape(-1, 2)
        stages = sorted({name for times in self._stage_ms for name in times})
        found = [Detections.empty(), *self._found]  # concatenate needs at least one
        return DetectionSet(
            snippet_ids=tuple(self._snippets),
            snippet=where[:, 0].copy(),
            frame=where[:, 1].copy(),
            offsets=np.cumsum([len(d.scores) for d in found], dtype=np.int64),
            boxes=np.concatenate([d.boxes.reshape(-1, 4) for d in found]).astype(np.float32),
            scores=np.concatenate([d.scores for d in found]).astype(np.float32),
            labels=np.concatenate([d.labels for d in found]).astype(np.int32),
            stage_ms={s: np.array([t.get(s, np.nan) for t in self._stage_ms], np.float32) for s in stages},
            provenance=dict(provenance or {}),
        )


def concatenate(sets: Sequence[DetectionSet]) -> DetectionSet:
    """All frames of several sets, in order; provenance keeps what they agree on.

    ``UserError`` when a frame is in more than one of them.
    """
    ids = tuple(dict.fromkeys(i for s in sets for i in s.snippet_ids))
    place = {snippet_id: n for n, snippet_id in enumerate(ids)}
    renumbered = [np.array([place[i] for i in s.snippet_ids], np.int32)[s.snippet] for s in sets]
    counts = [np.diff(s.offsets) for s in sets]
    stages = sorted({name for s in sets for name in s.stage_ms})
    shared = set.intersection(*(set(s.provenance.items()) for s in sets)) if sets else set()
    try:
        return DetectionSet(
            snippet_ids=ids,
            snippet=_join(renumbered, np.int32),
            frame=_join([s.frame for s in sets], np.int32),
            offsets=np.concatenate([[0], np.cumsum(_join(counts, np.int64))]).astype(np.int64),
            boxes=_join([s.boxes for s in sets], np.float32).reshape(-1, 4),
            scores=_join([s.scores for s in sets], np.float32),
            labels=_join([s.labels for s in sets], np.int32),
            stage_ms={
                name: _join([s.stage_ms.get(name, np.full(len(s), np.nan)) for s in sets], np.float32)
                for name in stages
            },
            provenance=dict(sorted(shared)),
        )
    except ValueError as error:
        raise UserError(f"these detections cannot be joined: {error}") from error


# ---- on disk ------------------------------------------------------------------------------------------------


def write_detections(url: str, detections: DetectionSet) -> None:
    """Write one Parquet file, atomically: a reader sees the old file or the new one."""
    metadata = json.dumps({"schema": SCHEMA, "provenance": dict(detections.provenance)})
    offsets = pa.array(detections.offsets, pa.int32())
    columns = {
        "snippet": pa.DictionaryArray.from_arrays(
            pa.array(detections.snippet, pa.int32()), pa.array(detections.snippet_ids, pa.string())
        ),
        "frame": pa.array(detections.frame, pa.int32()),
        "boxes": pa.ListArray.from_arrays(
            offsets, pa.FixedSizeListArray.from_arrays(pa.array(detections.boxes.reshape(-1), pa.float32()), type=_BOX)
        ),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(detections.scores, pa.float32())),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(detections.labels, pa.int32())),
        **{_STAGE + name: pa.array(times, pa.float32()) for name, times in sorted(detections.stage_ms.items())},
    }
    table = pa.table(columns).replace_schema_metadata({_METADATA: metadata.encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(url, buffer.getvalue())


def read_detections(url: str) -> DetectionSet:
    """The set as written. ``UserError`` for a missing, damaged or foreign file, or one of another schema."""
    table, provenance = _open(url)
    try:
        snippets = table["snippet"].combine_chunks().cast(pa.string()).dictionary_encode()
        lists = {name: table[name].combine_chunks() for name in ("boxes", "scores", "labels")}
        lengths = {name: np.diff(column.offsets.to_numpy()) for name, column in lists.items()}
        if any(not np.array_equal(lengths["scores"], other) for other in lengths.values()):
            raise ValueError("boxes, scores and labels differ in number")
        return DetectionSet(
            snippet_ids=tuple(snippets.dictionary.to_pylist()),
            snippet=snippets.indices.to_numpy().astype(np.int32),
            frame=table["frame"].to_numpy().astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(lengths["scores"])]).astype(np.int64),
            boxes=lists["boxes"].flatten().flatten().to_numpy().astype(np.float32).reshape(-1, 4),
            scores=lists["scores"].flatten().to_numpy().astype(np.float32),
            labels=lists["labels"].flatten().to_numpy().astype(np.int32),
            stage_ms={
                name.removeprefix(_STAGE): table[name].to_numpy().astype(np.float32)
                for name in table.column_names
                if name.startswith(_STAGE)
            },
            provenance=provenance,
        )
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{url}' holds damaged detections ({error}); make them again") from error


def _open(url: str) -> tuple[Any, dict[str, str]]:
    """(table, provenance) of a file that says it holds detections in a schema we read."""
    try:
        table = pq.read_table(io.BytesIO(read_bytes(url)))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"'{url}' is not a readable Parquet file ({error}); give detections written by vodbench, or make them again"
        ) from error
    stored = (table.schema.metadata or {}).get(_METADATA)
    try:
        header = json.loads(stored) if stored is not None else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise UserError(f"'{url}' is a Parquet file but holds no vodbench detections; give the detections of a trial")
    if header.get("schema") != SCHEMA:
        raise UserError(
            f"'{url}' has detections schema {header.get('schema')!r}, this version reads {SCHEMA}; make them again"
        )
    return table, {str(k): str(v) for k, v in header.get("provenance", {}).items()}


# ---- helpers ------------------------------------------------------------------------------------------------


def _join(parts: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _fault(s: DetectionSet) -> str | None:
    """What is wrong with a set, in words; None when nothing is."""
    num_frames, num_boxes = len(s.frame), len(s.scores)
    if s.snippet.shape != (num_frames,) or s.offsets.shape != (num_frames + 1,):
        return f"{num_frames} frames, but {len(s.snippet)} snippet indices and {len(s.offsets)} offsets"
    if s.boxes.shape != (num_boxes, 4) or s.labels.shape != (num_boxes,):
        return f"{num_boxes} scores, but boxes of shape {s.boxes.shape} and {len(s.labels)} labels"
    if s.offsets[0] != 0 or s.offsets[-1] != num_boxes or (np.diff(s.offsets) < 0).any():
        return f"offsets do not split {num_boxes} boxes"
    if not np.isfinite(s.scores).all() or not np.isfinite(s.boxes).all():
        return "a score or box is NaN or infinite"
    if num_boxes and s.labels.min() < 1:
        return f"label {s.labels.min()}; labels start at 1"
    if num_frames and (s.snippet.min() < 0 or s.snippet.max() >= len(s.snippet_ids) or s.frame.min() < 0):
        return "a snippet or frame index is out of range"
    if any(times.shape != (num_frames,) for times in s.stage_ms.values()):
        return "a stage has not one time a frame"
    return _duplicate_frame(s)


def _duplicate_frame(s: DetectionSet) -> str | None:
    keys = np.sort((s.snippet.astype(np.int64) << 32) | s.frame)
    twice = keys[1:][keys[1:] == keys[:-1]]
    if not len(twice):
        return None
    return f"frame {twice[0] & 0xFFFFFFFF} of snippet '{s.snippet_ids[twice[0] >> 32]}' is there twice"
