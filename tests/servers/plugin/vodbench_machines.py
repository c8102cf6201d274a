"""Handles on the servers that tests start, and on a sweep that ran on them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
from ports import free_port

CEPH = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin")
CEPH_PORT = 3310  # of the monitor, fixed in the script that starts it
START_SECONDS = 300.0
COMMAND_SECONDS = 500.0


@dataclass(frozen=True)
class S3:
    """A gateway with one bucket. ``secret`` is what must not be seen anywhere."""

    endpoint: str
    bucket: str = "bench"
    key: str = "testaccesskey"
    secret: str = "testsecretkey123"

    @property
    def variables(self) -> dict[str, str]:
        """What a user sets for it."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "FSSPEC_S3_ENDPOINT_URL": self.endpoint,
        }

    @property
    def fs(self) -> Any:
        """The test's own way in, without cached listings."""
        return fsspec.filesystem(
            "s3", endpoint_url=self.endpoint, key=self.key, secret=self.secret, use_listings_cache=False
        )

    def url(self, *parts: str) -> str:
        return "/".join([f"s3://{self.bucket}", *parts])


@dataclass
class Mlflow:
    """A tracking server with authentication, its runs in PostgreSQL, its artifacts in S3."""

    command: list[str]
    variables: dict[str, str]
    port: int
    log: Path
    password: str
    user: str = "admin"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_with_password(self) -> str:
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.variables, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        assert self.process is not None
        until = time.monotonic() + START_SECONDS
        while not answers(f"{self.url}/health"):
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the MLflow server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power failure would, with all its processes."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Swept:
    """A sweep by the command line whose data, results and records are all on the servers."""

    url: str  # of the study folder
    optuna_storage: str
    figures: dict[str, Any]  # of --json
    printed: str  # everything, on both streams
    folder: Path  # where it ran, with Ray's logs in ``ray``


def start_s3(tools: Path, folder: Path, log: Path) -> tuple[subprocess.Popen[bytes], S3]:
    """The script that starts a gateway, on its way, and the gateway; skips where it cannot be had."""
    missing = [name for name in CEPH if shutil.which(name) is None]
    if missing:
        pytest.skip(f"S3 needs {missing[0]}: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", CEPH_PORT)) == 0:
            pytest.skip(f"S3 needs port {CEPH_PORT}, where something else listens (another run of these tests?)")
    port = free_port()
    with log.open("wb") as file:
        script = subprocess.Popen(
            ["bash", str(tools / "s3_up.sh"), str(folder)],
            env=os.environ | {"RGW_PORT": str(port)}, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    return script, S3(f"http://127.0.0.1:{port}")


def kill_s3(script: subprocess.Popen[bytes], folder: Path) -> None:
    script.kill()
    for file in (folder / "run").glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def vodbench(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, in an otherwise empty folder, with a secret more than it needs."""
    secrets = {"MLFLOW_TRACKING_PASSWORD": "planted-unused-pw", "RAY_TMPDIR": str(folder.parent / "ray")}
    command = [sys.executable, "-c", "from vodbench.cli import main; main()", *words]
    environment = os.environ | secrets | variables
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        said = b"".join(filter(None, [error.stdout, error.stderr])).decode(errors="replace")  # type: ignore[list-item]
        pytest.fail(f"vodbench {words[0]} took longer than {COMMAND_SECONDS:.0f} s; it had said: {said[-3000:]}")


def need_package(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {package}: pip install {package}")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False
