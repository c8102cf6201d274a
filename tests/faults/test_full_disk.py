"""A disk that fills up on the way: an error that says how much is needed, the old file as it was, and no litter."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vodbench.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.interruption import from_outside
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards.verify import verify_shards
from vodbench_datasets.shards.write import write_shards

SIZE = 2**20
FULL = r"is full: (?P<needed>[\d,]+) bytes are needed and (?P<free>[\d,]+) are free; make room"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def checkpoint(width: int) -> Checkpoint:
    spec = method_spec("faster-rcnn")
    return Checkpoint(
        method="faster-rcnn", config=spec.config.from_mapping({}), classes=(ClassInfo("n1", "thing"),),
        weights={"w": torch.ones(width, 1024)}, fingerprint="f", stage="detector", data_fingerprint="d",
        seed=0, revision="",
    )  # fmt: skip


def said(error: pytest.ExceptionInfo[UserError]) -> tuple[int, int]:
    """(bytes needed, bytes free)."""
    found = re.search(FULL, str(error.value))
    assert found is not None, str(error.value)
    return int(found["needed"].replace(",", "")), int(found["free"].replace(",", ""))


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(disk: Path) -> None:
    file = disk / "model.pt"
    save_checkpoint(str(file), checkpoint(100))  # 0.4 MB; the new one would need as much beside it
    before = file.read_bytes()
    with pytest.raises(UserError) as error:
        save_checkpoint(str(file), checkpoint(200))
    needed, free = said(error)
    assert needed > 200 * 1024 * 4
    assert free < needed
    assert from_outside(error.value)
    assert file.read_bytes() == before
    assert torch.equal(load_checkpoint(str(file)).weights["w"], torch.ones(100, 1024))
    assert os.listdir(disk) == ["model.pt"]


def test_shards_that_do_not_fit_are_continued_when_there_is_room(disk: Path, tmp_path: Path) -> None:
    video = tmp_path / "video"
    generate(str(video), GeneratorConfig(snippets=6, val_snippets=1, frames=10, size=96, classes=2))
    source = DataSource(root=str(video)).open()
    filler, shards = disk / "filler", disk / "shards"
    filler.write_bytes(bytes(SIZE - 150_000))
    with pytest.raises(UserError) as error:
        write_shards(source, str(shards), shard_bytes=60_000)
    needed, free = said(error)
    assert free < needed
    written = {name: (shards / name).read_bytes() for name in os.listdir(shards) if name.endswith(".parquet")}
    assert written
    assert not [name for name in os.listdir(shards) if name.endswith(".tmp")]
    filler.unlink()
    write_shards(source, str(shards), shard_bytes=60_000)
    assert verify_shards(str(shards)) == []
    assert {name: (shards / name).read_bytes() for name in written} == written
