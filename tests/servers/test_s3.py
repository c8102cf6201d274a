"""Object storage as it is: shards written, read and verified there; claims; what a user without access is told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from ports import free_port
from vodbench_machines import S3, vodbench

from vodbench.data_source import DataSource
from vodbench.errors import OutOfReachError, UserError
from vodbench.storage import exists, read_bytes, write_bytes
from vodbench.training.claims import claim
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig
from vodbench_datasets.shards import native, open_shards, verify_shards, write_shards

pytestmark = pytest.mark.slow


def test_shards_are_written_read_and_verified(s3: S3, tmp_path: Path) -> None:
    generate(str(tmp_path), GeneratorConfig(snippets=3, val_snippets=1, frames=20, size=48, classes=2))
    source, url = DataSource(root=str(tmp_path)).open(), s3.url("shards")
    index = write_shards(source, url, shard_bytes=20_000)
    assert len(index.shards) > 2
    there = DataSource(root=url).open()
    assert there.fingerprint == source.fingerprint
    for split in source.splits:
        assert there.snippets(split) == source.snippets(split)
        for snippet in source.snippets(split):
            wanted = [19, 0, 17]
            pairs = zip(
                source.read(split, snippet.id, wanted), there.read(split, snippet.id, wanted), strict=True
            )  # fmt: skip
            for ours, theirs in pairs:
                assert (theirs.index, theirs.encoded) == (ours.index, ours.encoded)
                assert (theirs.truth.boxes == ours.truth.boxes).all()
    assert verify_shards(url) == []
    assert write_shards(source, url, shard_bytes=20_000) == index  # found there, not written again

    name = f"{url}/{index.shards[1].file}"
    whole = read_bytes(name)
    write_bytes(name, whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    problems = verify_shards(url)
    assert problems
    assert all(index.shards[1].file in problem for problem in problems)


@pytest.fixture
def plan(s3: S3, tools: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, Any]]]:
    """Sets what a proxy before the gateway does to requests; everything of the test goes through it."""
    upstream, port = s3.endpoint.rpartition(":")[2], free_port()
    process = subprocess.Popen([sys.executable, str(tools / "fault_proxy.py"), str(port), upstream])

    def say(**words: Any) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/__faults", json.dumps(words).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.loads(answer.read()))

    for _ in range(100):
        try:
            say(latency=0.0)
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{port}"})
    monkeypatch.setattr(native, "_paused", {})
    yield say
    process.kill()
    process.wait()


def test_a_clip_is_one_request(s3: S3, plan: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Once its shard is open; by Arrow's client, which takes the login from the environment as s3fs does."""
    generate(str(tmp_path), GeneratorConfig(snippets=1, val_snippets=1, frames=24, size=48, classes=2))
    write_shards(DataSource(root=str(tmp_path)).open(), s3.url("requests"))
    shards = open_shards(s3.url("requests"))
    (snippet,) = shards.snippets("train")
    shards.read("train", snippet.id, [0])
    assert [opened._is_native for opened in shards._files.values()] == [True]
    before = plan()["requests"]
    shards.read("train", snippet.id, [19, 2, 11])
    assert plan()["requests"] == before + 1


@pytest.mark.parametrize(
    "faults",
    [{"n503": 3}, {"n_reset": 3, "reset_after": 1000}, {"n_reset": 3, "reset_after": 0}, {"latency": 0.5}],
    ids=str,
)
def test_shards_are_read_through_faults(
    s3: S3, plan: Callable[..., dict[str, Any]], tmp_path: Path, faults: dict[str, Any]
) -> None:
    generate(str(tmp_path), GeneratorConfig(snippets=2, val_snippets=1, frames=8, size=96, classes=2))
    source, url = DataSource(root=str(tmp_path)).open(), s3.url("faulty")
    write_shards(source, url, shard_bytes=1)
    shards = open_shards(url)
    first, second = (snippet.id for snippet in source.snippets("train"))
    shards.read("train", first, [0])
    plan(**faults)
    for snippet in (first, second):  # a shard that is open, and one that is not
        for ours, theirs in zip(source.read("train", snippet), shards.read("train", snippet), strict=True):
            assert theirs.encoded == ours.encoded
    done = plan()
    assert (done["n503"], done["n_reset"]) == (0, 0)


def test_clips_arrive_from_the_bucket_at_a_speed(s3: S3, servers: Path) -> None:
    """Through Ray's own processes, with the login from the environment; the copy does not stay."""
    done = vodbench(
        "bench", "data", "--clips", "32", "--size", "48", "--repeats", "1", "--also", s3.url("speed"), "--json",
        folder=servers,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["fraction_of_decode_s3"] > 0
    assert figures["first_clip_seconds_s3"] > 0
    assert not s3.fs.find(s3.url("speed"))


def test_of_two_that_want_a_claim_one_works_and_the_other_waits_for_it(s3: S3) -> None:
    url, done = s3.url("claims", "claim"), threading.Event()
    held: list[bool] = []

    def work() -> None:
        with claim(url, done.is_set, poll_s=0.05) as mine:
            held.append(mine)
            if mine:
                done.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False, True]
    assert not s3.fs.exists("bench/claims/claim")


@pytest.mark.parametrize("wrong", [{"secret": "planted-wrong-secret"}, {"key": "nobody"}])
def test_the_wrong_key_is_one_line(s3: S3, wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": s3.endpoint, "secret": s3.secret, **wrong})
    for use in (exists, read_bytes, lambda url: DataSource(root=url).open()):
        with pytest.raises(UserError, match=r"cannot be reached \(.*; check the address, permissions") as error:
            use(s3.url("shards", "index.json"))
        assert "\n" not in str(error.value)
        assert "planted-wrong-secret" not in str(error.value)


def test_a_gateway_that_is_not_there_is_one_line(refusing_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://127.0.0.1:{refusing_port}"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(OutOfReachError, match=f"cannot be reached .*127.0.0.1:{refusing_port}"):
        exists("s3://bench/x")
