"""The gate, with real processes.

Nothing here depends on how soon a process starts: a test goes on when the other process says that it asks for the gate
or is inside, and "waits" means that the lock it would need first is seen to be taken.
"""

from __future__ import annotations

import fcntl
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vodbench.timing import gate
from vodbench.timing.gate import measuring, working

# Says when it asks for the gate and when it is inside; leaves when told, or when this process is gone. "forking" leaves
# at once, but a child that it forked while measuring lives on.
HOLDER = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("gate", sys.argv[1])
gate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gate)
print("asks", flush=True)
if sys.argv[2] == "forking":
    entered = gate.measuring()
    entered.__enter__()
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("in", flush=True)
    os.kill(os.getpid(), 9)
with getattr(gate, sys.argv[2])():
    print("in", flush=True)
    sys.stdin.read()
"""

PATIENCE = 120.0  # seconds for what must happen, on whatever machine
GLANCE = 0.3  # seconds in which what must not happen would show


@pytest.fixture(autouse=True)
def _gate_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VODBENCH_GATE", str(tmp_path / "gate"))


class Holder:
    """Another process at the gate. The module is loaded from its file: importing torch takes seconds."""

    def __init__(self, kind: str) -> None:
        command = [sys.executable, "-c", HOLDER, gate.__file__, kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._line("asks", PATIENCE)

    def inside(self, timeout: float = PATIENCE) -> bool:
        """Whether it gets in; asked again after a True, the answer would be False."""
        return self._line("in", timeout)

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=PATIENCE) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()  # of the first, a forked child learns that it may go

    def _line(self, expected: str, timeout: float) -> bool:
        pipe = self.process.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], timeout)[0]:
            return False
        line = pipe.readline().decode().strip()
        assert line == expected
        return True


Start = Callable[[str], Holder]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Holder] = []

    def begin(kind: str) -> Holder:
        started.append(Holder(kind))
        return started[-1]

    yield begin
    for holder in started:
        holder.close()


def first_inside(*holders: Holder) -> Holder:
    """Whoever gets in first."""
    ready, _, _ = select.select([h.process.stdout for h in holders], [], [], PATIENCE)
    first = next(h for h in holders if h.process.stdout in ready)
    assert first.inside()
    return first


def turnstile_is_taken() -> None:
    """Wait until somebody stands in the turnstile: a measurement that asked has come as far as it gets."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with (gate.gate_folder() / "turnstile").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        time.sleep(0.01)
    raise TimeoutError("no measurement came to the turnstile")


def test_work_goes_on_side_by_side(start: Start) -> None:
    first, second = start("working"), start("working")
    assert first.inside()
    assert second.inside()


def test_a_measurement_waits_for_all_work_and_then_is_alone(start: Start) -> None:
    first, second = start("working"), start("working")
    assert first.inside()
    assert second.inside()
    measurement = start("measuring")
    turnstile_is_taken()
    assert not measurement.inside(GLANCE)
    first.leave()
    assert not measurement.inside(GLANCE)
    second.leave()
    assert measurement.inside()
    late_work, late_measurement = start("working"), start("measuring")
    assert not late_work.inside(GLANCE)
    assert not late_measurement.inside(0)
    measurement.leave()
    first_in = first_inside(late_work, late_measurement)
    last = late_measurement if first_in is late_work else late_work
    assert not last.inside(GLANCE)
    first_in.leave()
    assert last.inside()


def test_new_work_does_not_overtake_a_waiting_measurement(start: Start) -> None:
    old = start("working")
    assert old.inside()
    measurement = start("measuring")
    turnstile_is_taken()
    new = start("working")
    assert not new.inside(GLANCE)  # although only shared holders are inside
    old.leave()
    assert measurement.inside()
    assert not new.inside(GLANCE)
    measurement.leave()
    assert new.inside()


@pytest.mark.parametrize("dies", ["working", "measuring"])
def test_a_killed_holder_lets_go(start: Start, dies: str) -> None:
    holder = start(dies)
    assert holder.inside()
    waiting = start("measuring")
    assert not waiting.inside(GLANCE)
    holder.kill()
    assert waiting.inside()


def test_a_killed_waiter_lets_work_pass(start: Start) -> None:
    old = start("working")
    assert old.inside()
    waiter = start("measuring")
    turnstile_is_taken()
    new = start("working")
    assert not new.inside(GLANCE)
    waiter.kill()
    assert new.inside()


def test_a_forked_child_does_not_keep_the_gate_shut(start: Start) -> None:
    dead = start("forking")
    assert dead.inside()
    assert dead.process.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert start("measuring").inside()


def test_nesting(start: Start) -> None:
    with working(), working():
        other = start("measuring")
        turnstile_is_taken()
        with working():  # must not queue behind the one that waits for us
            pass
        assert not other.inside(GLANCE)
    assert other.inside()
    other.leave()
    with measuring(), measuring(), working():
        assert not start("working").inside(GLANCE)


def test_measuring_inside_working_is_a_fault() -> None:
    with working(), pytest.raises(AssertionError, match="would wait for itself"):
        measuring().__enter__()
    with measuring():
        pass
