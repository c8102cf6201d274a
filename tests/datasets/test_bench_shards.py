"""``vodbench bench shards``: what it counts, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Run, figures

from vodbench.errors import UserError
from vodbench_datasets.shards import bench, write_shards


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of 1 MiB: five snippets of frames of 1 KiB."""
    monkeypatch.setattr(bench, "SHARD_BYTES", 2**20)


def test_the_command(run: Run, tmp_path: Path) -> None:
    also = tmp_path / "store"
    arguments = ["bench", "shards", "--shards", "6", "--clips", "9", "--image-kib", "1", "--also", str(also), "--json"]
    found = figures(run(*arguments))
    for place in ("local", "local2"):
        ratio = found[f"{place}_many_cpu_ms_a_clip"] / found[f"{place}_few_cpu_ms_a_clip"]
        assert found[f"many_over_few_cpu_{place}"] == pytest.approx(ratio)
        assert found[f"{place}_first_of_a_shard_ms"] > 0
    assert list(also.iterdir()) == []


def test_one_shard_is_read_as_many(tmp_path: Path) -> None:
    write_shards(bench.MadeUp(1024, 0), str(tmp_path))
    wide = bench._widened(str(tmp_path), 7)
    assert len(wide.snippets("train")) == 7 * 6
    (one,), (other,) = (wide.read("train", f"{number}/train/snippet_00000003", [8]) for number in (0, 6))
    assert one.encoded == other.encoded
    assert len(one.encoded) == 1024
    assert sorted(wide._files) == [0, 6]


@pytest.mark.parametrize("wrong", [{"shards": 4}, {"clips": 0}, {"image_kib": 0}], ids=str)
def test_bad_numbers(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {wrong[name]} is not accepted"):
        bench.command(**wrong)  # type: ignore[arg-type]
