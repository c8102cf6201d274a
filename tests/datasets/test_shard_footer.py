"""What is kept of a shard's footer: the row groups that Arrow reads with it are those it reads with the whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import Frame, Truth
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import open_shards, read, write_shards
from vodbench_datasets.shards.file import ShardFile
from vodbench_datasets.shards.footer import Footer
from vodbench_datasets.shards.layout import ROWS, ROWS_WITH_MOTION
from vodbench_datasets.shards.rows import parquet_writer, to_table


def frame(index: int, rng: np.random.Generator) -> Frame:
    """With none to three objects, and now and then a record of motion."""
    count = int(rng.integers(4))
    truth = Truth(
        rng.random((count, 4), np.float32), rng.integers(1, 9, count), np.arange(count), rng.random(count) < 0.5,
        rng.random(count) < 0.5,
    )  # fmt: skip
    kinds = {"blur": 0.5, "occlusion": 1.0} if count == 2 else {}
    return Frame("snippet", index, rng.bytes(index * 40), truth, kinds, b"motion" * (index % 3))


def shard(path: Path, frames: int, schema: pa.Schema = ROWS, group: int = 4) -> Path:
    rng = np.random.default_rng(0)
    with parquet_writer(str(path), schema) as writer:
        writer.write_table(to_table([frame(index, rng) for index in range(frames)], schema), row_group_size=group)
    return path


def through(footer: Footer, path: Path, groups: Sequence[int]) -> pa.Table:
    file = pq.ParquetFile(path, metadata=footer.metadata(groups), page_checksum_verification=True)
    assert file.num_row_groups == len(groups)
    return file.read_row_groups(range(len(groups)))


@pytest.mark.parametrize("schema", [ROWS, ROWS_WITH_MOTION], ids=["plain", "motion"])
def test_any_row_groups_are_read_as_with_the_whole_footer(tmp_path: Path, schema: pa.Schema) -> None:
    path = shard(tmp_path / "a.parquet", 27, schema)
    whole = pq.ParquetFile(path)
    with path.open("rb") as file:
        footer = Footer.read(file)
    assert footer.num_row_groups == whole.num_row_groups == 7
    assert footer.column_names == schema.names
    for count in range(1, 8):
        for groups in combinations(range(7), count):
            assert through(footer, path, groups).to_pylist() == whole.read_row_groups(groups).to_pylist()


def test_a_footer_longer_than_the_first_read(tmp_path: Path) -> None:
    """Of 600 groups; lists of more than 14 groups have a header of their own."""
    path = shard(tmp_path / "a.parquet", 600, group=1)
    size = int.from_bytes(path.read_bytes()[-8:-4], "little")
    with path.open("rb") as file:
        footer = Footer.read(file)
    assert size > 2**16
    for groups in ([599], range(14), range(15), range(16), range(600)):
        assert through(footer, path, groups).to_pylist() == pq.ParquetFile(path).read_row_groups(groups).to_pylist()


def test_it_takes_little_memory(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", 600, group=1)
    with path.open("rb") as file:
        footer = Footer.read(file)
    kept = sum(value.nbytes for value in vars(footer).values() if isinstance(value, np.ndarray)) + len(footer._head)
    assert kept < 130 * 600


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    with shard(tmp_path / "a.parquet", 8).open("rb") as file:
        footer = Footer.read(file)
    with pytest.raises(IndexError):
        footer.metadata([2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not end as a Parquet file"),
        (b"no Parquet at all", "does not end as a Parquet file"),
        (b"\xff\xff\xff\x7fPAR1", "longer than the file"),
        (bytes(30) + b"\x10\0\0\0PAR1", "thrift"),
    ],
)
def test_what_is_no_shard_is_refused(data: bytes, message: str) -> None:
    with pytest.raises((ValueError, OSError, pa.ArrowException), match=message):
        Footer.read(io.BytesIO(data))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "snappy"}, "compressed"),
        ({"compression": "none", "use_dictionary": True}, "dictionaries"),
    ],
)
def test_a_shard_that_something_else_wrote_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    whole = pq.read_table(shard(tmp_path / "a.parquet", 8))
    pq.write_table(whole, tmp_path / "b.parquet", row_group_size=4, **options)
    with pytest.raises(UserError, match=rf"b.parquet' cannot be read \(.*{message}.*vodbench data verify"):
        ShardFile(str(tmp_path / "b.parquet"), 1000)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="its columns are not those of a shard"):
        ShardFile(str(tmp_path / "a.parquet"), 1000)


def test_few_local_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard whose descriptor was given back is opened again."""
    monkeypatch.setattr(read, "_OPEN_FILES", 2)
    generate(str(tmp_path / "tree"), GeneratorConfig(snippets=4, val_snippets=1, frames=3, size=48))
    source = DataSource(root=str(tmp_path / "tree")).open()
    write_shards(source, str(tmp_path / "shards"), shard_bytes=1)  # type: ignore[arg-type]
    shards = open_shards(str(tmp_path / "shards"))
    snippets = shards.snippets("train")
    assert len(shards.index.shards) == 5
    for _ in range(2):
        for info in snippets:
            assert shards.read("train", info.id, [0])[0].encoded == source.read("train", info.id, [0])[0].encoded
    assert sum(file._file is not None for file in shards._files.values()) <= 2
