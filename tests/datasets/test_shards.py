"""Shards: a bit-exact copy, written atomically, continued after an interruption."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Frame, SnippetInfo, Truth
from vodbench_datasets.clips.pipeline import RayClips
from vodbench_datasets.shards import load_index, open_shards, verify_shards, write_shards
from vodbench_datasets.shards.destination import files_in

SPLITS = {"train": {"train/a": 40, "train/b": 16, "still": 1}, "val": {"val/c": 17, "val/d": 3}}


class Memory(RayClips):
    """A data set of random bytes and boxes; reading more than ``limit`` snippets ends as if the process were killed."""

    name = "memory"
    root = "nowhere"
    classes = (ClassInfo("n1", "cat"), ClassInfo("n2", "dög"))

    def __init__(self, seed: int = 0, limit: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.frames = {
            split: {name: [_frame(rng, name, index) for index in range(count)] for name, count in snippets.items()}
            for split, snippets in SPLITS.items()
        }
        self.fingerprint = f"source-{seed}"
        self.splits = tuple(SPLITS)
        self.limit = limit
        self.opened: list[str] = []

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(name, len(frames), name == "still") for name, frames in self.frames[split].items()]

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        return [(name, index) for name, frames in self.frames[split].items() for index in range(0, len(frames), 3)]

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        if snippet not in self.opened:
            self.opened.append(snippet)
        if self.limit is not None and len(self.opened) > self.limit:
            raise KeyboardInterrupt
        frames = self.frames[split][snippet]
        return [frames[index] for index in (range(len(frames)) if indices is None else indices)]


def _frame(rng: np.random.Generator, snippet: str, index: int) -> Frame:
    count = int(rng.integers(0, 4))
    truth = Truth(
        boxes=rng.random((count, 4), np.float32) * 100,
        labels=rng.integers(1, 3, count),
        track_ids=rng.integers(0, 2**40, count),
        occluded=rng.random(count) < 0.5,
        generated=rng.random(count) < 0.5,
    )
    deteriorations = {"motion_blur": float(rng.random()), "défocus": 1.0} if rng.random() < 0.5 else {}
    return Frame(snippet, index, rng.bytes(int(rng.integers(200, 400))), truth, deteriorations)


def same(left: Frame, right: Frame) -> bool:
    """Bit for bit, types included."""
    truths = [
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for name in ("boxes", "labels", "track_ids", "occluded", "generated")
        for a, b in [(getattr(left.truth, name), getattr(right.truth, name))]
    ]
    plain = [(f.snippet, f.index, f.encoded, dict(f.deteriorations)) for f in (left, right)]
    return all(truths) and plain[0] == plain[1]


@pytest.fixture(params=["folder", "memory"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new place for shards, on disk and in an object store."""
    if request.param == "folder":
        yield str(tmp_path / "shards")
        return
    yield f"memory://{tmp_path.name}/shards"
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def contents(url: str) -> dict[str, bytes]:
    fs, path = fsspec.core.url_to_fs(url)
    return {name: fs.cat_file(f"{path}/{name}") for name in files_in(url)}


@pytest.mark.parametrize("shard_bytes", [1, 8_000, 10**9])
def test_round_trip_is_bit_exact(destination: str, shard_bytes: int) -> None:
    source = Memory()
    write_shards(source, destination, shard_bytes=shard_bytes)
    shards = DataSource(root=destination).open()
    assert shards.name == "shards"
    assert (shards.classes, shards.splits, shards.fingerprint) == (source.classes, source.splits, source.fingerprint)
    for split in source.splits:
        assert shards.snippets(split) == source.snippets(split)
        assert shards.training_frames(split) == source.training_frames(split)  # type: ignore[attr-defined]
        for snippet in source.snippets(split):
            read = shards.read(split, snippet.id)
            assert len(read) == snippet.num_frames
            assert all(map(same, read, source.read(split, snippet.id)))
    assert verify_shards(destination) == []


def test_random_access_keeps_the_order_asked_for(destination: str) -> None:
    source = Memory()
    write_shards(source, destination)
    asked = [39, 0, 16, 15, 16, 38]
    read = open_shards(destination).read("train", "train/a", asked)
    assert all(map(same, read, source.read("train", "train/a", asked)))
    assert len(read) == len(asked)
    assert open_shards(destination).read("train", "train/a", []) == []


def test_annotations_can_be_read_alone(tmp_path: Path) -> None:
    source = Memory()
    write_shards(source, str(tmp_path / "shards"))
    (frame,) = open_shards(str(tmp_path / "shards")).read("val", "val/d", [2], with_images=False)
    expected = source.frames["val"]["val/d"][2]
    assert frame.encoded == b""
    assert same(frame, Frame(expected.snippet, 2, b"", expected.truth, expected.deteriorations))


def test_whole_snippets_and_row_groups_of_consecutive_frames(tmp_path: Path) -> None:
    index = write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=8_000)
    assert len(index.shards) > 2
    homes: dict[str, str] = {}
    for shard in index.shards:
        file = pq.ParquetFile(tmp_path / "shards" / shard.file)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["snippet", "index"])
            names, frames = set(table["snippet"].to_pylist()), table["index"].to_pylist()
            assert len(names) == 1
            assert len(frames) <= index.group_frames == 4
            assert frames == list(range(frames[0], frames[0] + len(frames)))
            assert homes.setdefault(names.pop(), shard.file) == shard.file


def test_index_counts_what_is_there(tmp_path: Path) -> None:
    source = Memory()
    index = write_shards(source, str(tmp_path / "shards"), provenance={"note": "a test"})
    for split in source.splits:
        frames = [frame for snippet in source.snippets(split) for frame in source.read(split, snippet.id)]
        counts = index.counts[split]
        assert counts.snippets == len(SPLITS[split])
        assert counts.frames == len(frames) == sum(SPLITS[split].values())
        assert counts.boxes == sum(len(frame.truth.labels) for frame in frames)
    assert sum(shard.rows for shard in index.shards) == sum(counts.frames for counts in index.counts.values())
    assert index.provenance["source_fingerprint"] == source.fingerprint
    assert index.provenance["note"] == "a test"
    assert load_index(str(tmp_path / "shards")) == index


def test_some_splits_are_other_data(tmp_path: Path) -> None:
    source = Memory()
    write_shards(source, str(tmp_path / "val"), splits=["val"])
    shards = open_shards(str(tmp_path / "val"))
    assert shards.splits == ("val",)
    assert shards.fingerprint != source.fingerprint


def test_a_sampled_source_fingerprint_is_replaced_by_one_over_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "fingerprint_is_sampled", True)
    first = write_shards(Memory(), str(tmp_path / "first"))
    changed = Memory()
    changed.frames["val"]["val/d"][1] = _frame(np.random.default_rng(9), "val/d", 1)
    second = write_shards(changed, str(tmp_path / "second"))
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint != Memory().fingerprint


def test_readers_travel_between_processes(tmp_path: Path) -> None:
    write_shards(Memory(), str(tmp_path / "shards"))
    shards = open_shards(str(tmp_path / "shards"))
    before = shards.read("val", "val/c", [3])
    copy = pickle.loads(pickle.dumps(shards))
    assert same(copy.read("val", "val/c", [3])[0], before[0])


# ---- interruption ----


@pytest.mark.parametrize("limit", range(5))
def test_an_interrupted_run_continues_and_ends_with_the_same_files(destination: str, limit: int) -> None:
    """One shard a snippet; the run dies while reading snippet ``limit`` or one read ahead of it."""
    undisturbed = f"{destination}-undisturbed"
    write_shards(Memory(), undisturbed, shard_bytes=1)
    with pytest.raises(KeyboardInterrupt):
        write_shards(Memory(limit=limit), destination, shard_bytes=1)
    finished = [name for name in files_in(destination) if name.endswith(".parquet")]
    with pytest.raises(UserError, match="incomplete; run the same 'vodbench data shard' again"):
        DataSource(root=destination).open()
    again = Memory()
    write_shards(again, destination, shard_bytes=1)
    assert contents(destination) == contents(undisturbed)
    order = [name for split in SPLITS.values() for name in split]
    assert again.opened == order[len(finished) :], "finished shards were read from the source again"


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = write_shards(Memory(), str(tmp_path / "shards"))
    again = Memory()
    assert write_shards(again, str(tmp_path / "shards")) == first
    assert again.opened == []


@pytest.mark.parametrize("fault", ["flip", "cut", "garbage"])
def test_a_damaged_shard_of_an_interrupted_run_is_written_again(tmp_path: Path, fault: str) -> None:
    write_shards(Memory(), str(tmp_path / "undisturbed"), shard_bytes=1)
    with pytest.raises(KeyboardInterrupt):
        write_shards(Memory(limit=3), str(tmp_path / "shards"), shard_bytes=1)
    shard = tmp_path / "shards" / "train-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes({"flip": bytes(data), "cut": bytes(data[:1000]), "garbage": b"garbage"}[fault])
    write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=1)
    assert contents(str(tmp_path / "shards")) == contents(str(tmp_path / "undisturbed"))


def test_torn_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_shards(Memory(limit=2), str(tmp_path / "shards"), shard_bytes=1)
    torn = tmp_path / "shards" / f"train-00002.parquet.{'0' * 32}.tmp"
    torn.write_bytes(b"half")
    write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=1)
    assert not torn.exists()


def test_a_lost_shard_of_finished_shards_is_written_again(tmp_path: Path) -> None:
    write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=1)
    before = contents(str(tmp_path / "shards"))
    (tmp_path / "shards" / "train-00001.parquet").unlink()
    write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=1)
    assert contents(str(tmp_path / "shards")) == before


# ---- bad input: refused before anything is written ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"splits": ["trian"]}, "unknown split 'trian': did you mean 'train'"),
        ({"shard_bytes": 0}, "shard size 0 is not accepted"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_shards(Memory(), str(tmp_path / "shards"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else(destination: str) -> None:
    fsspec.open(f"{destination}/notes.txt", "w", auto_mkdir=True).open().close()
    with pytest.raises(UserError, match=r"holds no shards \(found 'notes.txt'\)"):
        write_shards(Memory(), destination)
    assert list(files_in(destination)) == ["notes.txt"]


def test_an_index_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"kind": "other"}')
    with pytest.raises(UserError, match="holds no shards"):
        write_shards(Memory(), str(tmp_path))


@pytest.mark.parametrize("interrupted", [True, False])
@pytest.mark.parametrize(
    ("seed", "arguments"),
    [(1, {}), (0, {"splits": ["val"]}), (0, {"shard_bytes": 5}), (0, {"splits": ["val", "train"]})],
)
def test_shards_of_other_data_or_settings(
    tmp_path: Path, interrupted: bool, seed: int, arguments: dict[str, Any]
) -> None:
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            write_shards(Memory(limit=1), str(tmp_path / "shards"), shard_bytes=1)
    else:
        write_shards(Memory(), str(tmp_path / "shards"), shard_bytes=1)
    before = contents(str(tmp_path / "shards"))
    with pytest.raises(UserError, match="holds shards of other data, splits or shard size"):
        write_shards(Memory(seed), str(tmp_path / "shards"), **{"shard_bytes": 1, **arguments})
    assert contents(str(tmp_path / "shards")) == before


@pytest.mark.parametrize(
    ("place", "message"),
    [("data/shards", "is inside the data it would copy"), ("data", "is inside"), (".", "contains the data")],
)
def test_source_and_destination_are_apart(tmp_path: Path, place: str, message: str) -> None:
    source = Memory()
    source.root = str(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        write_shards(source, str(tmp_path / place))
    assert list(tmp_path.iterdir()) == []


def test_a_neighbour_whose_name_starts_alike_is_apart(tmp_path: Path) -> None:
    source = Memory()
    source.root = str(tmp_path / "data")
    write_shards(source, str(tmp_path / "data-shards"))


# ---- opening what is not there or not whole ----


def test_opening_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no shards"):
        open_shards(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"kind": "other"}', "is not the index of vodbench shards"),
        ('{"kind": "vodbench-shards", "version": 99}', "has schema version 99"),
        ('{"kind": "vodbench-shards", "version": 1}', "is damaged at 'job'"),
    ],
)
def test_opening_a_bad_index(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_shards(str(tmp_path))


def test_asking_for_what_is_not_there(tmp_path: Path) -> None:
    write_shards(Memory(), str(tmp_path / "shards"))
    shards = open_shards(str(tmp_path / "shards"))
    with pytest.raises(UserError, match="unknown split 'test'"):
        shards.snippets("test")
    with pytest.raises(UserError, match="has no snippet 'x'"):
        shards.read("val", "x")
    with pytest.raises(UserError, match="has no frame 3; give 0 to 2"):
        shards.read("val", "val/d", [0, 3])


@pytest.mark.parametrize("fault", ["flip", "cut", "lose"])
def test_damage_never_passes_as_data(tmp_path: Path, fault: str) -> None:
    write_shards(Memory(), str(tmp_path / "shards"))
    shard = tmp_path / "shards" / "val-00000.parquet"
    data = bytearray(shard.read_bytes())
    image = Memory().frames["val"]["val/c"][5].encoded
    data[data.index(image) + 10] ^= 4
    shard.write_bytes(bytes(data) if fault == "flip" else bytes(data[:-500]))
    if fault == "lose":
        shard.unlink()
    with pytest.raises(UserError, match=r"val-00000.parquet' (cannot be read|is missing).*vodbench data verify"):
        open_shards(str(tmp_path / "shards")).read("val", "val/c")
