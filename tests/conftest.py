"""Fixtures shared by every room's tests."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# One thread a process: tests run beside Ray workers on few cores, and one thread is also the reproducible setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Output looks alike wherever the tests run: build servers ask for colours, terminals have their own width. (Rich and
# Typer read these when they are imported.)
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)
os.environ["COLUMNS"] = "120"

# Servers of the tests are on this machine, whatever stands between it and the others.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))

MEMORY = Path("/dev/shm")
ROOM = 6 * 2**30  # several times what all tests leave behind


def _in_memory() -> str | None:
    """A file system in memory with room for the tests' files, where there is one.

    On a disk each of SQLite's commits waits for it: MLflow's tables alone, made anew for every sweep, 4 s instead of 1.
    """
    if not MEMORY.is_dir():
        return None
    there = os.statvfs(MEMORY)
    room = min(there.f_bavail * there.f_frsize, psutil.virtual_memory().available)
    return str(MEMORY) if room >= ROOM and not there.f_flag & os.ST_NOEXEC else None


IN_MEMORY = _in_memory()
if IN_MEMORY is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)  # of ``tmp_path``

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))


LONGEST = ("servers", "faults")  # they share the port of the S3 server: never two at a time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes the tests of one file stay together, for they share servers, clusters and trainings."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return "servers" if path.parent.name in LONGEST else str(path)

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests do not wait for a sweep of the same user beside them, nor does it wait for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VODBENCH_GATE", str(tmp_path_factory.mktemp("gate")))
        yield


@pytest.fixture(scope="session")
def in_memory() -> str | None:
    """Where to make a temporary folder of a short name, if not at the usual place."""
    return IN_MEMORY


@pytest.fixture(scope="session")
def golden() -> Path:
    """Small reference outputs, kept with the tests."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout (real video, larger golden files); tests skip without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name}/ beside the checkout (real video and large golden files)")
    return folder


@pytest.fixture(scope="session")
def tools() -> Path:
    """Scripts that start servers, beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "tools"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/tools beside the checkout (scripts that start servers)")
    return folder


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses, and that nobody else can take meanwhile: bound, and not listening."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield deaf.getsockname()[1]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs ``vodbench`` with these words in this process: a ``command_line.Run``."""
    from command_line import Outcome

    from vodbench import cli

    def call(*words: str) -> Outcome:
        capsys.readouterr()  # what was printed before it is not the command's
        monkeypatch.setattr(sys, "argv", ["vodbench", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, *capsys.readouterr())

    return call
