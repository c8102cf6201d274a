"""One of several processes that need the same weights trains; the others wait."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vodbench.storage import write_text
from vodbench.training import claims
from vodbench.training.claims import claim

HOLDER = """
import sys, time
from vodbench.training.claims import claim
with claim(sys.argv[1], lambda: False) as held:
    print(held, flush=True)
    time.sleep(60)
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


def test_one_holds_at_a_time_and_the_work_is_done_once(url: str) -> None:
    done: list[int] = []
    inside: list[int] = []

    def work(number: int) -> None:
        with claim(url, lambda: bool(done), poll_s=0.01) as held:
            if held:
                inside.append(number)
                assert len(inside) == 1
                time.sleep(0.3)
                done.append(number)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert len(done) == 1


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
    waiter.join(timeout=20)
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
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_S", 0.5)
    memory = f"memory://{Path(url).parent.parent.name}/left/claim"
    write_text(memory, json.dumps({"owner": "dead", "time": time.time()}))
    started = time.monotonic()
    with claim(memory, lambda: False, poll_s=0.01) as held:
        assert held
        assert time.monotonic() - started > 0.4
        time.sleep(0.8)  # longer than STALE_S: the heartbeat keeps it
        assert claims._holder(memory) not in (None, "dead")
