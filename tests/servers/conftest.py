"""Real servers on this machine, started once a session and killed at its end: S3 (Ceph), PostgreSQL, MLflow.

Each is skipped, with what to install, where it cannot be had. They listen on the loopback interface only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

sys.path.insert(0, str(Path(__file__).parent / "plugin"))
from ports import free_port
from vodbench_machines import S3, START_SECONDS, Mlflow, Swept, kill_s3, need_package, start_s3, vodbench

STUDY = """\
name: bucket
title: A sweep that lives in a bucket
data: {generate: {snippets: 4, val_snippets: 2, frames: 6, size: 64, classes: 2}}
preset: tiny
settings: {iterations: 4, basic_iterations: 2, advanced_iterations: 2, warmup_iterations: 1}
methods:
  - {method: faster-rcnn}
  - {method: rdn, knobs: {T: [1, 3]}}
accuracy: {bootstrap: 50}
runtime: {snippets: 1}
workers: {concurrent_trials: 2} # trials at once share frames' features through the cache, here in the bucket as well
"""


@pytest.fixture(scope="session")
def servers(in_memory: str | None) -> Iterator[Path]:
    """A folder for servers: short, because sockets have short names, and open to the user postgres."""
    folder = Path(tempfile.mkdtemp(prefix="vodbench-", dir=in_memory))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def starting_s3(tools: Path, servers: Path) -> Iterator[tuple[subprocess.Popen[bytes], S3]]:
    """The gateway on its way: other servers start meanwhile."""
    script, gateway = start_s3(tools, servers / "s3", servers / "s3.log")
    yield script, gateway
    kill_s3(script, servers / "s3")


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


@pytest.fixture
def run(swept: Swept) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command after the sweep, where that ran."""
    return lambda *words, **variables: vodbench(*words, folder=swept.folder, **variables)
