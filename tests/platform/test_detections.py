"""Detections in memory and on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vodbench.detections import (
    DetectionBuilder,
    DetectionSet,
    concatenate,
    read_detections,
    write_detections,
)
from vodbench.errors import UserError
from vodbench.spec import Detections


def found(num: int, seed: int) -> Detections:
    rng = np.random.default_rng(seed)
    return Detections(
        rng.uniform(0, 50, (num, 4)).astype(np.float32),
        rng.uniform(0, 1, num).astype(np.float32),
        rng.integers(1, 4, num),
    )


def example() -> DetectionSet:
    builder = DetectionBuilder()
    builder.add("b/two", 1, found(3, 0), {"backbone": 1.5})
    builder.add("a one", 0, Detections.empty(), {"backbone": 2.0, "head": 0.25})
    builder.add("b/two", 0, found(2, 1))
    return builder.build({"data": "d1", "weights": "w1"})


def assert_equal(a: DetectionSet, b: DetectionSet) -> None:
    assert a.snippet_ids == b.snippet_ids
    assert dict(a.provenance) == dict(b.provenance)
    assert set(a.stage_ms) == set(b.stage_ms)
    for name in ("snippet", "frame", "offsets", "boxes", "scores", "labels"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=name)
    for name in a.stage_ms:
        np.testing.assert_array_equal(a.stage_ms[name], b.stage_ms[name], err_msg=name)


def test_a_set_survives_the_disk_bit_for_bit_with_its_empty_frame(tmp_path: Path) -> None:
    url = str(tmp_path / "new folder" / "detections.parquet")
    write_detections(url, example())
    assert_equal(read_detections(url), example())
    assert pq.read_table(url).num_rows == 3  # one row a frame, the empty one too


def test_an_empty_set_survives_too(tmp_path: Path) -> None:
    empty = DetectionBuilder().build({"data": "d"})
    write_detections(str(tmp_path / "d.parquet"), empty)
    assert_equal(read_detections(str(tmp_path / "d.parquet")), empty)


def test_memory_urls_work() -> None:
    write_detections("memory://somewhere/d.parquet", example())
    assert_equal(read_detections("memory://somewhere/d.parquet"), example())


def test_the_builder_keeps_what_was_added() -> None:
    s = example()
    np.testing.assert_array_equal(s.detections(0).boxes, found(3, 0).boxes)
    assert len(s.detections(1).scores) == 0
    np.testing.assert_array_equal(s.rows_of("b/two"), [2, 0])  # frame order
    assert np.isnan(s.stage_ms["head"][[0, 2]]).all()
    assert s.stage_ms["head"][1] == 0.25
    assert len(s.rows_of("unknown")) == 0


def test_the_same_frame_twice_is_refused() -> None:
    builder = DetectionBuilder()
    builder.add("a", 3, Detections.empty())
    with pytest.raises(ValueError, match="frame 3 of snippet 'a' was added twice"):
        builder.add("a", 3, Detections.empty())


def test_concatenation_renumbers_snippets_and_keeps_agreed_provenance() -> None:
    builder = DetectionBuilder()
    builder.add("c", 0, found(1, 5))
    builder.add("b/two", 2, found(4, 6))
    joined = concatenate([example(), builder.build({"data": "d1", "weights": "w2"})])
    assert joined.snippet_ids == ("b/two", "a one", "c")
    np.testing.assert_array_equal(joined.rows_of("b/two"), [2, 0, 4])
    np.testing.assert_array_equal(joined.detections(4).scores, found(4, 6).scores)
    assert dict(joined.provenance) == {"data": "d1"}
    assert np.isnan(joined.stage_ms["backbone"][3:]).all()
    assert len(concatenate([])) == 0


def test_overlapping_sets_cannot_be_joined() -> None:
    with pytest.raises(UserError, match="is there twice"):
        concatenate([example(), example()])


def _rewrite(path: Path, **changes: object) -> None:
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"vodbench.detections"]) | changes
    pq.write_table(table.replace_schema_metadata({b"vodbench.detections": json.dumps(header).encode()}), path)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "d.parquet"
    write_detections(str(path), example())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_detections(str(path))


def test_missing_foreign_and_newer_files_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_detections(str(tmp_path / "none.parquet"))
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), foreign)
    with pytest.raises(UserError, match="holds no vodbench detections"):
        read_detections(str(foreign))
    newer = tmp_path / "newer.parquet"
    write_detections(str(newer), example())
    _rewrite(newer, schema=99)
    with pytest.raises(UserError, match="schema 99, this version reads 1"):
        read_detections(str(newer))


def test_a_file_whose_columns_disagree_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    write_detections(str(path), example())
    table = pq.read_table(path)
    short = pa.array([[0.5], [], [0.5]], pa.list_(pa.float32()))
    at = table.column_names.index("scores")
    pq.write_table(table.set_column(at, "scores", short), path)
    with pytest.raises(UserError, match=r"damaged detections .*differ in number"):
        read_detections(str(path))
    pq.write_table(table.drop_columns(["labels"]), path)
    with pytest.raises(UserError, match="damaged detections"):
        read_detections(str(path))


def test_a_nan_score_never_gets_in() -> None:
    broken = Detections(np.zeros((1, 4), np.float32), np.array([np.nan], np.float32), np.array([1]))
    builder = DetectionBuilder()
    builder.add("a", 0, broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        builder.build()


def test_share_of_frames_on_which_a_stage_ran() -> None:
    """Stage times of 0 say that it did not run, NaN that nobody looked."""
    builder = DetectionBuilder()
    for frame, times in enumerate([{"backbone": 3.0, "post": 1.0}, {"backbone": 0.0, "post": 1.0}, {"post": 2.0}, {}]):
        builder.add("a", frame, Detections.empty(), times)
    assert builder.build().stage_share() == {"backbone": 0.5, "post": 1.0}
