"""Sweeps through Ray's Jobs API: a real Ray of this machine with token authentication, and real sweeps on it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ports import free_port

from vodbench.errors import UserError
from vodbench.launch.on_ray import RayJobs
from vodbench.launch.state import Phase

pytestmark = pytest.mark.slow

TOKEN = secrets.token_hex(32)
NAME = "vodbench-planted"

# A sweep with planted steps: every trial leaves a line, and waits where it is told to.
DRIVER = """
import json, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from rich.console import Console
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime
from vodbench.spec import MethodSpec
from vodbench.studies import parse_mapping, parse_study, space
from vodbench.sweeps import plan, running

folder = Path(sys.argv[1])

@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(1, "supports", kind="inference", low=1)

class Source:
    fingerprint = "data"
    def __init__(self, root, kind="auto", options=None): self.root = root
    def open(self): return self
    def snippets(self, split): return []

class Steps:
    def training_fingerprint(self, job, context): return "t"
    def prepare(self, *_): pass
    def train(self, *_): return "t"
    def detect(self, job, *_):
        with (folder / "calls").open("a") as file: file.write(json.dumps(job.config.T) + chr(10))
        while job.config.T == 3 and (folder / "wait").exists(): time.sleep(0.1)
    def evaluate(self, job, context): return Accuracy(protocol="ilsvrc", map=0.5, low=0.4, high=0.6)
    def measure(self, job, *_):
        return Runtime(median_ms=1, p95_ms=1, p99_ms=1, mean_ms=job.config.T, low_ms=1, high_ms=1, fps=1, stage_ms={},
                       decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=0, num_frames=9, device="cpu",
                       threads=1, contended=False)

def spec(name):
    return MethodSpec(name=name, summary="", paper="", config=Config, presets={"paper": {}}, build=None, stages=None,
                      latency_frames=None)

space.method_spec = plan.method_spec = spec
running.DataSource = Source
study = parse_study(parse_mapping(Path("study.yaml").read_text(), "study"), "study")
(folder / "pid").write_text(str(os.getpid()))
result = running.run_sweep(running.plan_sweep(study, str(folder / "out"), steps=Steps()), Console(), ray_address="auto")
print("trials", len(result.records), "new", result.ran, flush=True)
"""
STUDY = """
name: planted
title: t
data: {root: nowhere}
methods: [{method: m, knobs: {T: [1, 2, 3, 4]}}]
"""


@pytest.fixture(scope="module")
def address(in_memory: str | None) -> Iterator[str]:
    """A Ray that wants a token; every process of it ends with the test."""
    port, agent, client = free_port(), free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=in_memory))  # of a short name, because sockets have short names
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=2"),
        *("--node-ip-address=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir={folder.as_posix()}"),
        # Their usual ports belong to whichever Ray of this machine came first.
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        f"--object-store-memory={100 * 2**20}",
    ]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_jobs(url, head, folder / "log")
        yield url
    finally:
        with suppress(psutil.NoSuchProcess):  # it could not start: that was said
            for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await_jobs(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        while True:
            with suppress(UserError):
                RayJobs(url)
                return
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


@pytest.fixture
def jobs(address: str, monkeypatch: pytest.MonkeyPatch) -> RayJobs:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return RayJobs(address)


def test_a_sweep_is_killed_stopped_and_continued(jobs: RayJobs, tmp_path: Path) -> None:
    """Each trial runs to its end once, whatever happens to the drivers."""
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "wait").touch()
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)]
    files = {"study.yaml": STUDY}

    jobs.submit(NAME, command, files)
    with pytest.raises(UserError, match="launched already"):
        jobs.submit(NAME, command, files)
    await_calls(tmp_path, 3)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    killed, _ = followed(jobs)
    assert killed is Phase.FAILED

    jobs.submit(NAME, command, files)
    await_calls(tmp_path, 4)
    jobs.stop(NAME)
    assert [(job.name, job.phase) for job in jobs.sweeps()] == [
        (f"{NAME}.1", Phase.FAILED),
        (f"{NAME}.2", Phase.STOPPED),
    ]

    (tmp_path / "wait").unlink()
    jobs.submit(NAME, command, files)
    ended, log = followed(jobs)
    assert ended is Phase.SUCCEEDED, log
    assert "trials 4 new 2" in log
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == [1, 2, 3, 3, 3, 4]  # the third was cut off twice, and no other ran again


def test_what_is_refused(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusing_port: int) -> None:
    for token in ("wrong" * 12, ""):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(UserError, match="does not accept the token; set RAY_AUTH_TOKEN"):
            RayJobs(address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read"):
        RayJobs(address)
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError, match="no sweep 'vodbench-none' is launched"):
        RayJobs(address).stop("vodbench-none")
    with pytest.raises(UserError, match="no Ray cluster answers"):
        RayJobs(f"http://127.0.0.1:{refusing_port}")
    with pytest.raises(UserError, match="is not accepted: give http://HOST:8265"):
        RayJobs("head:8265")


def followed(jobs: RayJobs) -> tuple[Phase, str]:
    written: list[str] = []
    ended = jobs.follow(NAME, lambda line: None, written.append)
    return ended.phase, "".join(written)


def await_calls(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    file = folder / "calls"
    while not file.exists() or len(file.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, f"no call {count}"
        time.sleep(0.1)
