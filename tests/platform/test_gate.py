"""The gate, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vodbench.timing.gate import measuring, working

# Enters the gate, says so, leaves when told (or after 60 s, so that a failing test leaves nothing behind).
HOLDER = """
import importlib.util, select, sys
spec = importlib.util.spec_from_file_location("gate", sys.argv[1])
gate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gate)
with getattr(gate, sys.argv[2])():
    print("in", flush=True)
    select.select([sys.stdin], [], [], 60)
print("out", flush=True)
"""


@pytest.fixture(autouse=True)
def own_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VODBENCH_GATE", str(tmp_path / "gate"))


class Holder:
    """Another process at the gate. The module is loaded from its file: importing torch takes seconds."""

    def __init__(self, kind: str) -> None:
        import vodbench.timing.gate as gate

        command = [sys.executable, "-c", HOLDER, gate.__file__, kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def inside(self, timeout: float = 10.0) -> bool:
        import select

        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        return bool(ready) and self.process.stdout.readline() == "in\n"

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start():  # type: ignore[no-untyped-def]
    started: list[Holder] = []

    def begin(kind: str) -> Holder:
        started.append(Holder(kind))
        return started[-1]

    yield begin
    for holder in started:
        holder.kill()


WAIT = 0.7  # long enough for a process to start and to get in, if it could


def test_work_goes_on_side_by_side(start) -> None:  # type: ignore[no-untyped-def]
    first, second = start("working"), start("working")
    assert first.inside()
    assert second.inside()


def test_a_measurement_waits_for_all_work_and_then_is_alone(start) -> None:  # type: ignore[no-untyped-def]
    first, second = start("working"), start("working")
    assert first.inside()
    assert second.inside()
    measurement = start("measuring")
    assert not measurement.inside(WAIT)
    first.leave()
    assert not measurement.inside(WAIT)
    second.leave()
    assert measurement.inside()
    late_work, late_measurement = start("working"), start("measuring")
    assert not late_work.inside(WAIT)
    assert not late_measurement.inside(0)
    measurement.leave()
    first_in = late_work if late_work.inside(1) else late_measurement
    assert first_in is late_work or first_in.inside()
    first_in.leave()
    last = late_measurement if first_in is late_work else late_work
    assert last.inside()


def test_new_work_does_not_overtake_a_waiting_measurement(start) -> None:  # type: ignore[no-untyped-def]
    old = start("working")
    assert old.inside()
    measurement = start("measuring")
    assert not measurement.inside(WAIT)
    new = start("working")
    assert not new.inside(WAIT)  # although only shared holders are inside
    old.leave()
    assert measurement.inside()
    assert not new.inside(WAIT)
    measurement.leave()
    assert new.inside()


@pytest.mark.parametrize("dies", ["working", "measuring"])
def test_a_killed_holder_lets_go(start, dies: str) -> None:  # type: ignore[no-untyped-def]
    holder = start(dies)
    assert holder.inside()
    waiting = start("measuring")
    assert not waiting.inside(WAIT)
    holder.kill()
    assert waiting.inside()


def test_a_killed_waiter_lets_work_pass(start) -> None:  # type: ignore[no-untyped-def]
    old = start("working")
    assert old.inside()
    waiter = start("measuring")  # only now: started together, either may come first
    assert not waiter.inside(WAIT)
    new = start("working")
    assert not new.inside(WAIT)
    waiter.kill()
    assert new.inside()


def test_a_forked_child_does_not_keep_the_gate_shut(start) -> None:  # type: ignore[no-untyped-def]
    with measuring():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        assert start("measuring").inside()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_nesting(start) -> None:  # type: ignore[no-untyped-def]
    with working(), working():
        other = start("measuring")
        assert not other.inside(WAIT)
        with working():  # must not queue behind the one that waits for us
            pass
        assert not other.inside(WAIT)
    assert other.inside()
    other.leave()
    with measuring(), measuring(), working():
        assert not start("working").inside(WAIT)


def test_measuring_inside_working_is_a_fault() -> None:
    with working(), pytest.raises(AssertionError, match="would wait for itself"):
        measuring().__enter__()
    with measuring():
        pass
