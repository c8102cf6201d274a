"""Real servers on this machine, started once a session and killed at its end: S3 (Ceph), PostgreSQL, MLflow.

Each is skipped, with what to install, where it cannot be had. They listen on the loopback interface only.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

CEPH = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin")
CEPH_PORT = 3310  # of the monitor, fixed in the script that starts it
START_SECONDS = 300.0


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
        while not _answers(f"{self.url}/health"):
            if self.process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"the MLflow server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power failure would, with all its processes."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="session")
def tools() -> Path:
    """Scripts that start servers, beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "tools"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/tools beside the checkout (scripts that start servers)")
    return folder


@pytest.fixture(scope="session")
def servers() -> Iterator[Path]:
    """A folder for servers: short, because sockets have short names, and open to the user postgres."""
    folder = Path(tempfile.mkdtemp(prefix="vodbench-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def starting_s3(tools: Path, servers: Path) -> Iterator[tuple[subprocess.Popen[bytes], S3]]:
    """The gateway on its way: other servers start meanwhile."""
    missing = [name for name in CEPH if shutil.which(name) is None]
    if missing:
        pytest.skip(f"S3 needs {missing[0]}: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", CEPH_PORT)) == 0:
            pytest.skip(f"S3 needs port {CEPH_PORT}, where something else listens (another run of these tests?)")
    port = free_port()
    with (servers / "s3.log").open("wb") as log:
        script = subprocess.Popen(
            ["bash", str(tools / "s3_up.sh"), str(servers / "s3")],
            env=os.environ | {"RGW_PORT": str(port)}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield script, S3(f"http://127.0.0.1:{port}")
    script.kill()
    for file in (servers / "s3" / "run").glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture(scope="session")
def s3(starting_s3: tuple[subprocess.Popen[bytes], S3], servers: Path) -> Iterator[S3]:
    """The gateway with an empty bucket; this process and those it starts find it where a user would say it is."""
    script, gateway = starting_s3
    if script.wait(START_SECONDS) != 0:
        pytest.fail(f"S3 did not start: {(servers / 's3.log').read_text()[-2000:]}")
    gateway.fs.mkdir(gateway.bucket)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gateway.variables.items():
            patch.setenv(name, value)
        # fsspec has read the environment already in this process.
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": gateway.endpoint})
        yield gateway


@pytest.fixture(scope="session")
def postgres(tools: Path, servers: Path) -> Iterator[Callable[[str], str]]:
    """Database name -> its URL; ``mlflow`` and ``optuna`` are there. The URL's password is not asked for."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    need_package("psycopg2", "psycopg2-binary")
    home, port = servers / "postgres", free_port()
    home.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses root
        shutil.chown(home, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    script = [*as_user, "bash", str(tools / "postgres_up.sh"), str(home / "data"), str(port)]
    subprocess.run(script, check=True, cwd=home, capture_output=True)
    yield lambda name: f"postgresql+psycopg2://ci:planted-postgres-pw@127.0.0.1:{port}/{name}"
    pid = (home / "data" / "data" / "postmaster.pid").read_text().split()[0]
    os.kill(int(pid), signal.SIGQUIT)  # its word for: at once


@pytest.fixture(scope="session")
def mlflow(
    starting_s3: tuple[subprocess.Popen[bytes], S3], postgres: Callable[[str], str], servers: Path
) -> Iterator[Mlflow]:
    need_package("flask_wtf", "mlflow[auth]")
    need_package("boto3", "boto3")
    _, gateway = starting_s3
    password, port = "planted-mlflow-pw", free_port()
    config = servers / "auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{servers}/auth.db\nadmin_username = admin\n"
        f"admin_password = {password}\nauthorization_function = "
        "mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    words = f"server --host 127.0.0.1 --port {port} --workers 1 --app-name basic-auth"
    stores = ["--backend-store-uri", postgres("mlflow"), "--artifacts-destination", gateway.url("mlflow")]
    server = Mlflow(
        command=[sys.executable, "-m", "mlflow", *words.split(), *stores],
        variables=gateway.variables | {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted-flask-key",
            "MLFLOW_S3_ENDPOINT_URL": gateway.endpoint,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        },
        port=port, log=servers / "mlflow.log", password=password,
    )  # fmt: skip
    server.start()
    server.wait()
    yield server
    server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_package(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {package}: pip install {package}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


STUDY = """\
name: bucket
title: A sweep that lives in a bucket
data: {generate: {snippets: 4, val_snippets: 3, frames: 8, size: 64, classes: 2}}
preset: tiny
settings: {iterations: 4, basic_iterations: 2, advanced_iterations: 2, warmup_iterations: 1}
methods:
  - {method: faster-rcnn}
  - {method: rdn, knobs: {T: [1, 3], r: [20, 50]}}
accuracy: {bootstrap: 50}
runtime: {snippets: 1}
"""


@dataclass(frozen=True)
class Swept:
    """A sweep by the command line whose data, results and records are all on the servers."""

    url: str  # of the study folder
    optuna_storage: str
    figures: dict[str, Any]  # of --json
    printed: str  # everything, on both streams
    folder: Path  # where it ran, with Ray's logs in ``ray``


@pytest.fixture(scope="session")
def swept(s3: S3, mlflow: Mlflow, postgres: Callable[[str], str], servers: Path) -> Swept:
    folder = servers / "run"
    folder.mkdir()
    (servers / "bucket.yaml").write_text(STUDY)
    storage, url = postgres("optuna"), s3.url("sweep")
    done = vodbench(
        "sweep", str(servers / "bucket.yaml"), "--out", url, "--tracking", mlflow.url_with_password,
        "--optuna-storage", storage, "--json", folder=folder, TMPDIR=str(servers),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = vodbench("report", url, folder=folder)
    assert report.returncode == 0, report.stderr
    printed = done.stdout + done.stderr + report.stdout + report.stderr
    return Swept(url, storage, json.loads(done.stdout.splitlines()[-1]), printed, folder)


def vodbench(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own, in an otherwise empty folder, with a secret more than it needs."""
    secrets = {"MLFLOW_TRACKING_PASSWORD": "planted-unused-pw", "RAY_TMPDIR": str(folder.parent / "ray")}
    return subprocess.run(
        [sys.executable, "-c", "from vodbench.cli import main; main()", *words],
        cwd=folder, env=os.environ | secrets | variables, capture_output=True, text=True, timeout=580,
    )  # fmt: skip


@pytest.fixture
def run(swept: Swept) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command after the sweep, where that ran."""
    return lambda *words, **variables: vodbench(*words, folder=swept.folder, **variables)
