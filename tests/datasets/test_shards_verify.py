"""``verify_shards``: every planted fault is found, and named."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Frame, SnippetInfo, Truth
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.shards import open_shards, verify_shards, write_shards

COUNTS = {"a": 20, "b": 5, "c": 3}
SHARD = "train-00000.parquet"  # holds a and b
SHARD_BYTES = 11_000  # more than a alone, less than a and b
BOX = 1234.5625  # exact in float32, and found nowhere else in a shard


def frame(snippet: str, index: int) -> Frame:
    truth = Truth(
        boxes=np.array([[1, 2, 3, 4], [index, 5, 6, BOX + index]], np.float32),
        labels=np.array([1, 1]),
        track_ids=np.array([0, 1]),
        occluded=np.array([False, True]),
        generated=np.array([False, False]),
    )
    return Frame(snippet, index, f"image {snippet} {index:03d}".encode() * 20, truth, {"blur": 0.5})


class Source(RayClips):
    name, root, fingerprint, splits = "source", "nowhere", "f", ("train",)
    classes = (ClassInfo("n1", "cat"),)

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(name, count) for name, count in COUNTS.items()]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        return [("a", 0)]

    def read(self, split, snippet, indices=None, *, with_images=True):  # type: ignore[no-untyped-def]
        return [frame(snippet, index) for index in indices]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards") / "sound"
    index = write_shards(Source(), str(root), shard_bytes=SHARD_BYTES)
    assert [record.shard for record in index.snippets["train"]] == [0, 0, 1]
    return root


@pytest.fixture
def shards(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "shards"))


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(bytes(data))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another valid Parquet file in its place."""
    table = change(pq.read_table(path))
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=16)
    path.write_bytes(sink.getvalue())


def test_sound_shards_have_no_problem(shards: Path) -> None:
    steps: list[tuple[int, int]] = []
    assert verify_shards(str(shards), lambda done, total: steps.append((done, total))) == []
    assert steps == [(1, 2), (2, 2)]


def test_a_missing_shard(shards: Path) -> None:
    (shards / "train-00001.parquet").unlink()
    assert verify_shards(str(shards)) == ["train-00001.parquet: missing (3 frames of 1 snippets)"]


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_truncated_shard(shards: Path, kept: float) -> None:
    data = (shards / SHARD).read_bytes()
    left = data[: int(len(data) * kept)] if isinstance(kept, float) else data[: kept if kept >= 0 else len(data) + kept]
    (shards / SHARD).write_bytes(left)
    assert verify_shards(str(shards)) == [f"{SHARD}: truncated ({len(left)} of {len(data)} bytes)"]


@pytest.mark.parametrize(("snippet", "index"), [("a", 0), ("a", 17), ("b", 4)])
def test_a_flipped_byte_of_an_image(shards: Path, snippet: str, index: int) -> None:
    image = frame(snippet, index).encoded
    flip(shards / SHARD, (shards / SHARD).read_bytes().index(image) + len(image) // 2)
    assert verify_shards(str(shards)) == [f"{SHARD}: {snippet} frame {index}: image altered"]


@pytest.mark.parametrize("index", [3, 19])
def test_a_flipped_bit_of_a_box(shards: Path, index: int) -> None:
    flip(shards / SHARD, (shards / SHARD).read_bytes().index(np.float32(BOX + index).tobytes()))
    problems = verify_shards(str(shards))
    assert problems[0] == f"{SHARD}: a frame {index}: annotation altered"


def test_no_single_flipped_bit_goes_unseen(shards: Path) -> None:
    data = (shards / SHARD).read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, len(data) - 1, *rng.integers(0, len(data), 60).tolist()]:
        flip(shards / SHARD, at, 1 << int(rng.integers(8)))
        problems = verify_shards(str(shards))
        assert problems, at
        assert all(problem.startswith(f"{SHARD}: ") for problem in problems)
        (shards / SHARD).write_bytes(data)


def test_a_missing_row(shards: Path) -> None:
    rewrite(shards / SHARD, lambda table: pa.concat_tables([table.slice(0, 7), table.slice(8)]))
    assert verify_shards(str(shards)) == [f"{SHARD}: a frame 7: row missing"]


def test_a_row_that_is_there_twice(shards: Path) -> None:
    rewrite(shards / SHARD, lambda table: pa.concat_tables([table, table.slice(22, 1)]))
    assert verify_shards(str(shards)) == [f"{SHARD}: b frame 2: there twice"]


def test_a_row_of_no_listed_snippet(shards: Path) -> None:
    rewrite(shards / SHARD, lambda table: pa.concat_tables([table, pq.read_table(shards / "train-00001.parquet")[:1]]))
    assert verify_shards(str(shards)) == [f"{SHARD}: c frame 0: row not in the index"]


def test_a_forged_row_whose_digest_was_made_to_fit(shards: Path) -> None:
    """The row agrees with itself; only the snippet's fingerprint in the index tells."""
    other = write_shards_with_another_box(shards.parent / "other")
    (shards / SHARD).write_bytes((other / SHARD).read_bytes())
    assert verify_shards(str(shards)) == [f"{SHARD}: b: content differs from what the index says was written"]


def write_shards_with_another_box(root: Path) -> Path:
    class Other(Source):
        def read(self, split, snippet, indices=None, *, with_images=True):  # type: ignore[no-untyped-def]
            frames = super().read(split, snippet, indices)
            if snippet == "b":
                frames[1].truth.boxes[0, 0] = 99
            return frames

    write_shards(Other(), str(root))
    rewrite(root / SHARD, lambda table: table.slice(0, 25))
    return root


def test_a_shard_that_became_another_file(shards: Path) -> None:
    size = (shards / SHARD).stat().st_size
    (shards / SHARD).write_bytes(b"x" * size)
    (problem,) = verify_shards(str(shards))
    assert problem.startswith(f"{SHARD}: cannot be read as Parquet")
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(size)}), shards / SHARD)
    assert verify_shards(str(shards)) == [f"{SHARD}: is a Parquet file, but not a shard"]


def test_shards_that_changed_places(shards: Path) -> None:
    first, second = shards / SHARD, shards / "train-00001.parquet"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes() + b"\0" * len(data))
    second.write_bytes(data)
    problems = verify_shards(str(shards))
    assert any(problem.startswith(f"{first.name}: ") for problem in problems)
    assert f"{second.name}: c frame 0: row missing" in problems
    assert f"{second.name}: a frame 0: row not in the index" in problems


def test_files_that_the_index_does_not_name(shards: Path) -> None:
    (shards / "train-00002.parquet").write_bytes(b"")
    (shards / "notes.txt").write_text("a person's own file is no problem")
    assert verify_shards(str(shards)) == ["train-00002.parquet: not in the index"]


def test_an_edited_index(shards: Path) -> None:
    record = json.loads((shards / "index.json").read_text())
    record["training_frames"]["train"][0][1] = [1]
    (shards / "index.json").write_text(json.dumps(record))
    assert verify_shards(str(shards)) == ["index.json: altered since it was written"]
    with pytest.raises(UserError, match="altered since it was written"):
        open_shards(str(shards))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (',"job":', ', "job":'),
        ('"version":1', '"version":1,"version":1'),
        ('"shard":0', '"shard":-0.0'),
        ('"shard":0', '"shard":9'),
        ('"shard":0', '"shard":99999999999999999999'),
    ],
)
def test_an_index_of_other_bytes(shards: Path, old: str, new: str) -> None:
    """What means the same in other bytes is seen, and a number that leads nowhere is not followed."""
    text = (shards / "index.json").read_text()
    (shards / "index.json").write_text(text.replace(old, new, 1))
    assert verify_shards(str(shards)) == ["index.json: altered since it was written"]


@pytest.mark.parametrize("root", ["", "nothing-here"])
def test_a_root_without_shards_is_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(UserError, match="holds no shards"):
        verify_shards(str(tmp_path / root))
