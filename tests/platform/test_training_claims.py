"""One of several processes that need the same weights trains; the others wait."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vodbench.storage import read_text, write_text
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


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A claim on a local file system (a lock), and on an object store (a heartbeat)."""
    monkeypatch.setattr(claims, "SETTLE_S", 0.05)
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.05)
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


def test_a_heartbeat_that_stopped_frees_the_claim_and_a_fresh_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SETTLE_S", 0.05), ("HEARTBEAT_S", 0.05), ("STALE_S", 0.5)):
        monkeypatch.setattr(claims, name, seconds)
    memory = f"memory://{tmp_path.name}/left/claim"
    started = time.time()
    write_text(memory, json.dumps({"owner": "dead", "time": time.time()}))
    with claim(memory, lambda: False, poll_s=0.01) as held:
        assert held
        assert time.time() - started >= 0.5
        taken = json.loads(read_text(memory))
        deadline = time.monotonic() + PATIENCE_S
        # Renewed for longer than STALE_S: a heartbeat keeps it.
        while (last := json.loads(read_text(memory)))["time"] < taken["time"] + 1.0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert last["time"] >= taken["time"] + 1.0
        assert last["owner"] == taken["owner"] != "dead"


def test_a_claim_given_back_between_two_looks_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter asks on an object store; the file goes away just before it is read."""
    monkeypatch.setattr(claims, "SETTLE_S", 0.01)
    memory = "memory://given-back/claim"
    write_text(memory, json.dumps({"owner": "another", "time": time.time()}))
    fs = fsspec.filesystem("memory")
    read = type(fs).cat_file

    def too_late(self: Any, path: str, *rest: Any, **more: Any) -> bytes:
        if fs.exists(path) and b"another" in read(self, path):
            fs.rm_file(path)
        return bytes(read(self, path, *rest, **more))

    monkeypatch.setattr(type(fs), "cat_file", too_late)
    with claim(memory, lambda: False, poll_s=0.01) as held:
        assert held
