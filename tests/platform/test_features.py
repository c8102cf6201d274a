"""Features on disk: what comes back is what was put there, or nothing; and never more than the budget."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vodbench.errors import UserError
from vodbench.features import CacheSettings
from vodbench.features.budget import FeatureStore
from vodbench.features.entry import Entry, EntryWriter
from vodbench.features.records import UnfitError, from_plain, record_kind, to_plain
from vodbench.features.store import open_store
from vodbench.spec import HALF_PRECISION

CPU = torch.device("cpu")
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Inner:
    scale: float
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Record:
    boxes: torch.Tensor
    size: tuple[int, int]
    parts: tuple[Inner, ...]
    name: str
    features: torch.Tensor = field(metadata=HALF_PRECISION)
    extra: torch.Tensor | None = None


def record(seed: int = 0, **changes: Any) -> Record:
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "boxes": torch.rand(3, 4, generator=generator),
        "size": (48, 64),
        "parts": (
            Inner(0.1 + seed, np.arange(6, dtype=np.uint8).reshape(2, 3)),
            Inner(2.0, np.empty((0, 3), np.uint8)),
        ),
        "name": "ü",
        "features": torch.randn(3, 5, generator=generator),
    }
    return Record(**{**values, **changes})


def passed_through(value: Record, *, half: bool = False) -> Record:
    arrays: list[Any] = []

    def keep(array: Any) -> int:
        arrays.append(array)
        return len(arrays) - 1

    plain = to_plain(value, keep, half=half)
    back = from_plain(Record, plain, lambda number: arrays[number], CPU)
    assert isinstance(back, Record)
    return back


def assert_same(got: Record, wanted: Record) -> None:
    assert torch.equal(got.boxes, wanted.boxes)
    assert torch.equal(got.features, wanted.features)
    assert (got.size, got.name) == (wanted.size, wanted.name)
    assert (got.extra is None) == (wanted.extra is None)
    for a, b in zip(got.parts, wanted.parts, strict=True):
        assert a.scale == b.scale
        assert a.pixels.dtype == b.pixels.dtype
        assert np.array_equal(a.pixels, b.pixels)


# ---- records ------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was() -> None:
    wanted = record(extra=torch.tensor([True, False]))
    got = passed_through(wanted)
    assert_same(got, wanted)
    assert got.extra is not None
    assert got.extra.dtype == torch.bool


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 1, 1), (0, 3, 4, 5)])
def test_the_layout_of_a_tensor_comes_back(shape: tuple[int, ...]) -> None:
    """A convolution rounds in another order where the layout differs."""
    lying = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    got = passed_through(record(extra=lying)).extra
    assert got is not None
    assert torch.equal(got, lying)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_rounds_marked_fields_only_and_loses_no_large_number() -> None:
    wanted = record()
    got = passed_through(wanted, half=True)
    assert torch.equal(got.features, wanted.features.half().float())
    assert not torch.equal(got.features, wanted.features)
    assert torch.equal(got.boxes, wanted.boxes)
    large = record(features=torch.tensor([1e5, 1.0001]))
    assert torch.equal(passed_through(large, half=True).features, large.features)


def test_a_kind_is_kept_only_where_it_is_declared_and_plain() -> None:
    def declared(self: Any) -> Record: ...
    def anything(self: Any) -> Any: ...
    def listed(self: Any) -> list[Record]: ...

    assert record_kind(declared) is Record
    assert record_kind(anything) is None
    assert record_kind(listed) is None


@pytest.mark.parametrize(
    "change", [{"size": [1]}, {"size": [1, "2"]}, {"name": 3}, {"boxes": None}, {"more": 1}, {"boxes": {"array": 0}}]
)
def test_what_is_no_such_record_is_refused(change: dict[str, Any]) -> None:
    arrays: list[Any] = []
    plain = to_plain(record(), lambda array: arrays.append(array) or len(arrays) - 1)
    with pytest.raises(UnfitError):
        from_plain(Record, {**plain, **change}, lambda number: arrays[number], CPU)


def test_arrays_of_objects_are_refused() -> None:
    """They would be pickled."""
    arrays: list[Any] = []
    plain = to_plain(record(), lambda array: arrays.append(array) or len(arrays) - 1)
    plain["boxes"]["dtype"] = "|O"
    with pytest.raises(UnfitError, match="an array of"):
        from_plain(Record, plain, lambda number: arrays[number], CPU)


# ---- entries ------------------------------------------------------------------------------------------------

ABOUT = {"weights": "w", "snippet": "s"}


def written(path: Path, count: int = 3) -> bytes:
    with open(path, "wb") as file:
        writer = EntryWriter(file.write, ABOUT, half=False)
        for seed in range(count):
            writer.add(record(seed), {"backbone": 1.5 + seed})
        writer.finish()
    return path.read_bytes()


def test_an_entry_gives_its_frames_and_what_they_cost(tmp_path: Path) -> None:
    written(tmp_path / "e")
    entry = Entry.open(str(tmp_path / "e"), ABOUT)
    assert entry is not None
    assert len(entry) == 3
    for number in (2, 0, 1):
        got, stage_ms = entry.frame(number, Record, CPU)
        assert_same(got, record(number))
        assert stage_ms == {"backbone": 1.5 + number}
    entry.close()
    assert_same(got, record(1))  # it does not look into the file that is closed


def test_an_entry_is_of_what_it_says(tmp_path: Path) -> None:
    written(tmp_path / "e")
    assert Entry.open(str(tmp_path / "e"), {**ABOUT, "weights": "others"}) is None
    assert Entry.open(str(tmp_path / "gone"), ABOUT) is None


def test_no_damaged_entry_is_opened(tmp_path: Path) -> None:
    """Cut off anywhere, or with any byte changed."""
    whole = written(tmp_path / "e", count=1)
    for position in (*range(0, len(whole), 5), *range(len(whole) - 60, len(whole))):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        for number, damaged in enumerate((whole[:position], bytes(changed))):
            (tmp_path / str(number)).write_bytes(damaged)
            assert Entry.open(str(tmp_path / str(number)), ABOUT) is None, position


# ---- the store ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/cache" if request.param == "local" else f"memory://{tmp_path.name}/cache"


def opened(url: str, budget: int = 1000, began: float | None = None) -> FeatureStore:
    return open_store(CacheSettings(url=url, budget_bytes=budget, **({} if began is None else {"began": began})))


def put(store: FeatureStore, name: str, size: int) -> bool:
    with store.spool(name) as spool:
        spool.write(name.encode().ljust(size, b"."))
        return store.commit(name, spool)


def content(store: FeatureStore, name: str) -> bytes | None:
    with store.fetched(name) as path:
        return None if path is None else Path(path).read_bytes()


def test_the_least_recently_used_goes_first(url: str) -> None:
    store = opened(url)
    for name in ("a/1", "a/2", "b/1"):
        assert put(store, name, 300)
        time.sleep(0.01)
    assert content(store, "a/1") == b"a/1".ljust(300, b".")  # used again
    time.sleep(0.01)
    assert put(opened(url), "b/2", 400)
    assert [store.has(name) for name in ("a/1", "a/2", "b/1", "b/2")] == [True, False, True, True]
    assert content(store, "a/2") is None


def test_what_this_pass_has_used_is_not_thrown_out_by_it(url: str) -> None:
    """Otherwise each pass over more snippets than fit would throw out each of them before the next one wants it."""
    put(opened(url), "old", 300)
    time.sleep(0.01)
    store = opened(url)
    assert put(store, "new", 600)
    assert put(store, "more", 400)
    assert not store.has("old")
    assert not put(store, "no room", 100)
    assert store.has("new")
    assert store.has("more")


def test_nothing_goes_for_an_entry_that_cannot_be_kept(url: str) -> None:
    put(opened(url), "small", 300)
    time.sleep(0.01)
    assert not put(opened(url), "too large", 1001)
    assert opened(url).has("small")


def test_an_entry_replaces_its_namesake_and_counts_once(url: str) -> None:
    store = opened(url)
    assert put(store, "a", 600)
    assert put(store, "a", 700)
    assert sum(kept.size for kept in store.entries()) == 700


def test_an_entry_that_is_not_committed_leaves_nothing(url: str, tmp_path: Path) -> None:
    store = opened(url)
    with store.spool("a") as spool:
        spool.write(b"x" * 100)
    assert store.entries() == []
    assert not list(tmp_path.rglob("*.tmp"))


WRITER = """
import sys, time
from vodbench.features import CacheSettings
from vodbench.features.store import open_store
store = open_store(CacheSettings(url=sys.argv[1], budget_bytes=1000))
with store.spool("a") as spool:
    spool.write(b"x" * 300)
    spool.file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_removed_and_a_live_one_is_left_alone(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
        store = opened(str(tmp_path))
        assert not store.has("a")
        os.kill(writers[0].pid, signal.SIGKILL)
        writers[0].wait(PATIENCE_S)
        assert put(store, "b", 100)
        assert len(list(tmp_path.glob("*.tmp"))) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(PATIENCE_S)


CROWD = """
import random, sys
from pathlib import Path
from vodbench.features import CacheSettings
from vodbench.features.store import open_store
url, seed = sys.argv[1], int(sys.argv[2])
dice = random.Random(seed)
for turn in range(60):
    store = open_store(CacheSettings(url=url, budget_bytes=5000))
    name, size = f"{dice.randrange(3)}/{dice.randrange(8)}", dice.randrange(100, 900)
    with store.fetched(name) as path:
        if path is not None:
            try:
                text = Path(path).read_text()
            except FileNotFoundError:  # evicted a moment ago
                text = name
            assert set(text.split("|")) <= {name}, text
    with store.spool(name) as spool:
        while spool.size < size:
            spool.write(name.encode() if not spool.size else b"|" + name.encode())
            spool.file.flush()
        store.commit(name, spool)
    total = sum(kept.size for kept in store.entries())
    assert total <= 5000, total
"""


def test_many_processes_write_read_and_die_within_the_budget(tmp_path: Path) -> None:
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(tmp_path), str(n)]) for n in range(3)]
    doomed = crowd[-1]
    while doomed.poll() is None and not list(tmp_path.rglob("*.features")):
        time.sleep(0.01)
    doomed.kill()
    assert [each.wait(PATIENCE_S) for each in crowd[:-1]] == [0, 0]
    doomed.wait(PATIENCE_S)
    store = opened(str(tmp_path), 5000)
    put(store, "last", 10)
    assert not list(tmp_path.rglob("*.tmp"))
    assert 10 <= sum(kept.size for kept in store.entries()) <= 5000


def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    store = opened(str(tmp_path))
    assert put(store, "old", 100)
    with opened(str(tmp_path), 10**6).spool("a") as spool, open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(spool, "file", full)
        with pytest.raises(UserError, match=r"is full: 100,000 more bytes are needed and [\d,]+ are free"):
            spool.write(b"x" * 100_000)
    assert content(store, "old") is not None


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), opened(f"{tmp_path}/file").spool("a/b"):
        raise AssertionError


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="0 bytes is not accepted"):
        CacheSettings(url="x", budget_bytes=0)
