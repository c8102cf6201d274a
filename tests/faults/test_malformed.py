"""500 malformed inputs, made by a seeded mutator: an answer or an error of one line; no traceback, no hang, and nothing
that is silently something else where the format can tell."""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch

from vodbench.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.images import decode, encode_jpeg
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo
from vodbench.studies import load_study, method_spaces
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.ilsvrc.annotations import parse_annotation
from vodbench_datasets.shards.verify import verify_shards
from vodbench_datasets.shards.write import write_shards

_NUMBERS = (b"nan", b"-1", b"1e999", b"99999999999999999999", b"", b"0x1f", b"inf", b"-0.0", b"\xff", b"[]", b"null")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


class HangError(Exception):
    """A reader took longer than anybody would wait."""


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    """``HangError`` when the block takes longer (main thread only)."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError(f"still not done after {limit} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mutated(data: bytes, seed: int) -> bytes:
    """``data`` with one to three damages, always another sequence of bytes."""
    rng = random.Random(seed)
    changed = data
    while changed == data:
        changed = data
        for _ in range(rng.randint(1, 3)):
            changed = rng.choice(_DAMAGES)(changed, rng)
    return changed


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 8, 64, 1024)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + rng.randbytes(stop - start) + data[start:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _number(data: bytes, rng: random.Random) -> bytes:
    """A number written in text becomes one that nobody expects."""
    places = list(_NUMBER.finditer(data[:4096]))
    if not places:
        return data
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(_NUMBERS) + data[place.end() :]


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _overwrite,
    _zero,
    _remove,
    _repeat,
    _insert,
    _truncate,
    _number,
)


# ---- what is read -------------------------------------------------------------------------------------------

CASES = range(100)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    generate(str(root), GeneratorConfig(snippets=2, val_snippets=1, frames=4, size=64), workers=1)
    return root


def refused(read: Callable[[], object], damaged: str) -> bool:
    """Whether ``read`` refuses with an error of one line that names the file; True or False, nothing else in time."""
    message = None
    with seconds(60):  # long enough for a busy machine
        try:
            read()
        except UserError as error:
            message = str(error)
    if message is None:
        return False
    assert "\n" not in message.strip()
    assert damaged in message
    return True


def test_annotations(tree: Path) -> None:
    xml = min((tree / "Annotations").rglob("*.xml")).read_bytes()

    def read(data: bytes) -> None:
        for found in parse_annotation(data, "a.xml"):
            assert np.isfinite(np.array(found.box, float)).all()

    accepted = sum(not refused(partial(read, mutated(xml, seed)), "a.xml") for seed in CASES)
    assert accepted < len(CASES) / 10, "most damage is seen"
    assert not refused(partial(read, xml.replace(b"<", b" <")), "a.xml"), "white space is none"


def test_images() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    jpeg = encode_jpeg(image)
    for seed in CASES:
        data = mutated(jpeg, seed)

        def read(data: bytes = data) -> None:
            found = decode(data, "a.jpg")
            assert found.dtype == np.uint8
            assert found.ndim == 3

        refused(read, "a.jpg")


def test_shards(tree: Path, tmp_path: Path) -> None:
    """What is read from a damaged shard is what was written, or an error; and ``verify`` sees every damage."""
    whole = tmp_path / "whole"
    write_shards(DataSource(root=str(tree)).open(), str(whole))
    original = DataSource(root=str(whole)).open()
    written = {
        (split, info.id): original.read(split, info.id)
        for split in original.splits
        for info in original.snippets(split)
    }
    files = sorted(p for p in whole.iterdir() if p.is_file())
    for seed in CASES:
        root = tmp_path / f"damaged-{seed}"
        shutil.copytree(whole, root)
        target = root / files[seed % len(files)].name
        target.write_bytes(mutated(target.read_bytes(), seed))

        def read(root: Path = root) -> None:
            data = DataSource(root=str(root), kind="shards").open()
            if data.fingerprint != original.fingerprint:  # the index tells of other data, and says so
                return
            for (split, snippet), frames in written.items():
                for found, wanted in zip(data.read(split, snippet), frames, strict=True):
                    assert found.encoded == wanted.encoded
                    assert np.array_equal(found.truth.boxes, wanted.truth.boxes)
                    assert np.array_equal(found.truth.labels, wanted.truth.labels)

        refused(read, root.name)
        problems: list[str] = []
        if not refused(lambda root=root, problems=problems: problems.extend(verify_shards(str(root))), root.name):  # type: ignore[misc]
            assert problems, f"seed {seed}: {target.name} was damaged, and nothing was found"
        shutil.rmtree(root)


def test_studies(tmp_path: Path) -> None:
    for entry in load_study("demo").methods:
        method_spec(entry.method)  # importing torch takes seconds
    text = (Path(__file__).parents[2] / "studies" / "demo.yaml").read_bytes()
    for seed in CASES:
        path = tmp_path / f"study-{seed}.yaml"
        path.write_bytes(mutated(text, seed))
        refused(lambda path=path: method_spaces(load_study(str(path))), "")  # type: ignore[misc]


def test_checkpoints(tmp_path: Path) -> None:
    """No other weights than those that were saved: a flipped bit of a weight is an error, too."""
    spec = method_spec("faster-rcnn")
    config = spec.config.from_mapping({**spec.presets["tiny"], "fc_channels": 8, "tiny_width": 4})
    method = spec.build(config, 2)
    assert isinstance(method, torch.nn.Module)
    path = tmp_path / "model.pt"
    checkpoint = Checkpoint(
        method="faster-rcnn", config=config, classes=(ClassInfo("a", "a"), ClassInfo("b", "b")),
        weights=method.state_dict(), fingerprint="f", stage="only", data_fingerprint="d", seed=0, revision="r",
    )  # fmt: skip
    save_checkpoint(str(path), checkpoint)
    saved = path.read_bytes()
    for seed in CASES:
        path.write_bytes(mutated(saved, seed))

        def read() -> None:
            found = load_checkpoint(str(path))
            for name, tensor in checkpoint.weights.items():
                assert torch.equal(found.weights[name], tensor), name
            found.build()

        refused(read, path.name)
