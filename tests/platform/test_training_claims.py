"""One of several processes that need the same weights trains; the others wait."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vodbench.storage import write_text
from vodbench.training import claims
from vodbench.training.claims import claim

PATIENCE_S = 120.0  # for what must happen, on whatever machine

HOLDER = """
import sys, time
from vodbench.training.claims import claim
with claim(sys.argv[1], lambda: False) as held:
    print(held, flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A claim on a local file system (a lock), and on an object store (a heartbeat)."""
    monkeypatch.setattr(claims, "SETTLE_S", 0.05)
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
    if request.param == "s3":
        if "VODBENCH_TEST_S3" not in os.environ:
            pytest.skip("needs VODBENCH_TEST_S3=s3://bucket, with FSSPEC_S3_ENDPOINT_URL and credentials")
        return f"{os.environ['VODBENCH_TEST_S3']}/{uuid.uuid4().hex}/c/claim"
    return f"{tmp_path}/c/claim" if request.param == "local" else f"memory://{tmp_path.name}/c/claim"


def test_a_free_claim_is_held_and_given_back(url: str) -> None:
    for _ in range(2):
        with claim(url, lambda: False) as held:
            assert held


def test_finished_work_is_not_claimed(url: str) -> None:
    with claim(url, lambda: True) as held:
        assert not held


def test_one_holds_at_a_time_and_the_work_is_done_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SETTLE_S", 0.5)  # longer than a thread is kept from its next line
    done: list[int] = []
    inside: list[int] = []
    together: list[int] = []

    def work(number: int) -> None:
        with claim(url, lambda: bool(done), poll_s=0.01) as held:
            if held:
                inside.append(number)
                together.append(len(inside))
                time.sleep(0.3)
                done.append(number)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()
    assert len(done) == 1
    assert together == [1]


def test_a_waiter_takes_over_when_the_holder_gives_up(url: str) -> None:
    took_over: list[bool] = []

    def wait() -> None:
        with claim(url, lambda: False, poll_s=0.01) as held:
            took_over.append(held)

    with claim(url, lambda: False) as held:
        assert held
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.3)
        assert not took_over
    waiter.join(timeout=PATIENCE_S)
    assert took_over == [True]


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    url = f"{tmp_path}/claim"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    holder.kill()
    with claim(url, lambda: False, poll_s=0.01) as held:
        assert held
    holder.wait()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SETTLE_S", 0.05), ("HEARTBEAT_S", 0.05), ("STALE_S", 0.5)):
        monkeypatch.setattr(claims, name, seconds)


def candidate(folder: str, finished: bool = False) -> claims._Candidate:
    return claims._Candidate(fsspec.filesystem("memory"), folder, lambda: finished)


def holder(url: str) -> dict[str, Any]:
    """What the object of the highest number says."""
    fs, folder = fsspec.core.url_to_fs(url)
    values: dict[str, Any] = json.loads(fs.cat_file(max(fs.ls(folder, detail=False))))
    return values


@pytest.mark.usefixtures("quick")
def test_a_heartbeat_that_stopped_frees_the_claim_and_a_fresh_one_does_not(tmp_path: Path) -> None:
    memory = f"memory://{tmp_path.name}/left/claim"
    started = time.monotonic()
    # Written by a machine whose clock is years ahead: nobody looks at it.
    write_text(f"{memory}/000007", json.dumps({"owner": "dead", "beat": 10**9, "released": False}))
    with claim(memory, lambda: False, poll_s=0.01) as held:
        assert held
        assert time.monotonic() - started >= 0.5
        taken = holder(memory)
        assert taken["owner"] != "dead"
        rival = candidate(memory.removeprefix("memory:/"))
        deadline = time.monotonic() + PATIENCE_S
        # Renewed for longer than STALE_S: a heartbeat keeps it.
        while holder(memory)["beat"] < taken["beat"] + 20 and time.monotonic() < deadline:
            assert not rival.acquire()
            time.sleep(0.02)
        assert holder(memory)["owner"] == taken["owner"]
        assert holder(memory)["beat"] >= taken["beat"] + 20


@pytest.mark.usefixtures("quick")
def test_an_object_tidied_up_between_two_looks_is_no_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}/claim"
    latest = candidate(folder)
    monkeypatch.setattr(latest, "_numbers", lambda: [4])  # listed, and gone before it is read
    assert latest.acquire()
    latest.release()
    assert json.loads(fs.cat_file(f"{folder}/000005"))["released"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", [None, b"", b'{"own'])
def test_losing_to_an_object_that_is_gone_or_half_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """The winner was done, and tidied up, before the loser looked who it was; or is still writing."""
    fs, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}/claim"
    winner, loser = candidate(folder, finished=True), candidate(folder)
    assert winner.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(loser, "_numbers", list)  # it had looked before
        patch.setattr(loser, "_content", lambda _: content)
        assert not loser.acquire()
    winner.release()
    assert fs.ls(folder, detail=False) == []
    assert loser.acquire()
    loser.release()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", ["EIO", "EINVAL"])
def test_a_store_says_in_its_own_way_that_somebody_was_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Gateways answer a failed condition with 409 or 412, which become any ``OSError``; a store that is down, too."""
    fs, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}/claim"
    winner, loser = candidate(folder), candidate(folder)
    assert winner.acquire()
    monkeypatch.setattr(loser, "_numbers", list)  # it had looked before
    write = type(fs).pipe_file

    def refuse(self: Any, path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(getattr(errno, code), "PreconditionFailed")
        write(self, path, value)

    monkeypatch.setattr(type(fs), "pipe_file", refuse)
    assert not loser.acquire()
    winner.release()
    with pytest.raises(OSError, match="PreconditionFailed"):
        candidate(f"{folder}-of-another").acquire()


@pytest.mark.usefixtures("quick")
def test_only_one_of_many_takes_over(tmp_path: Path) -> None:
    memory = f"{tmp_path.name}/claim"
    fs = fsspec.filesystem("memory")
    fs.makedirs(f"/{memory}")
    fs.pipe_file(f"/{memory}/000001", json.dumps({"owner": "gone", "beat": 1, "released": True}).encode())
    rivals = [candidate(f"/{memory}") for _ in range(8)]
    took: list[bool] = []
    start = threading.Barrier(len(rivals))

    def race(rival: claims._Candidate) -> None:
        start.wait()
        took.append(rival.acquire())

    threads = [threading.Thread(target=race, args=(rival,)) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    for rival in rivals:
        rival.release()
    assert sorted(took) == [False] * 7 + [True]
    assert [path.rpartition("/")[2] for path in fs.ls(f"/{memory}", detail=False)] == ["000002"]


@pytest.mark.usefixtures("quick")
def test_a_store_that_ignores_conditions_has_one_holder_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write, the later one last: that one holds."""
    fs, folder = fsspec.filesystem("memory"), f"/{tmp_path.name}/claim"
    write = type(fs).pipe_file
    monkeypatch.setattr(type(fs), "pipe_file", lambda self, path, value, mode="": write(self, path, value))
    first, second = (candidate(folder) for _ in range(2))
    monkeypatch.setattr(claims, "SETTLE_S", 1.0)
    took: list[bool] = []
    thread = threading.Thread(target=lambda: took.append(first.acquire()))
    thread.start()
    while not fs.exists(f"{folder}/000001"):
        time.sleep(0.001)
    monkeypatch.setattr(second, "_numbers", list)  # it had looked before the first wrote
    assert second.acquire()
    thread.join(timeout=PATIENCE_S)
    assert took == [False]
    second.release()


@pytest.mark.usefixtures("quick")
def test_missed_beats_do_not_end_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = f"memory://{tmp_path.name}/claim"
    fs = fsspec.filesystem("memory")
    with claim(memory, lambda: False) as held:
        assert held
        with monkeypatch.context() as patch:
            patch.setattr(type(fs), "pipe_file", lambda *_, **__: 1 / 0)
            while "could not be renewed (ZeroDivisionError" not in caplog.text:
                time.sleep(0.01)
        before = holder(memory)["beat"]
        deadline = time.monotonic() + PATIENCE_S
        while holder(memory)["beat"] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder(memory)["beat"] > before


REMOTE_HOLDER = """
import sys
from vodbench.training import claims
claims.LocalFileSystem = type("None", (), {})  # this folder plays an object store
claims.HEARTBEAT_S, claims.SETTLE_S = 0.05, 0.05
"""


def test_a_killed_holder_on_a_store_is_followed_by_one_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9: no lock is freed by anybody; the heartbeat stops."""
    monkeypatch.setattr(claims, "LocalFileSystem", type("None", (), {}))
    for name, seconds in (("SETTLE_S", 0.05), ("HEARTBEAT_S", 0.05), ("STALE_S", 3.0)):
        monkeypatch.setattr(claims, name, seconds)
    url = f"{tmp_path}/claim"
    victim = subprocess.Popen([sys.executable, "-c", REMOTE_HOLDER + HOLDER, url], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "True\n"
    done: list[int] = []
    held_by: list[int] = []

    def wait(number: int) -> None:
        with claim(url, lambda: bool(done), poll_s=0.02) as held:
            if held:
                held_by.append(number)
                time.sleep(0.5)
                done.append(number)

    waiting = [threading.Thread(target=wait, args=(n,)) for n in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(1.0)
    assert not held_by
    victim.kill()
    victim.wait()
    for thread in waiting:
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()
    assert len(held_by) == 1
    assert os.listdir(url) == []  # the work is done: nobody will ask again
