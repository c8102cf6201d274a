"""The MLflow server's script: where its password goes, and that both databases are made and made again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ports import free_port

SCRIPT = Path(__file__).resolve().parents[2] / "k8s" / "base" / "services" / "mlflow_server.py"
PASSWORD = "p%s:w/o@rd %(x)s"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlflow_server_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"HOST": "db", "USER": "mlflow", "PASSWORD": PASSWORD}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    monkeypatch.setattr(module, "gettempdir", lambda: str(tmp_path))
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.setenv(name, "")  # so that what the script sets is undone
    return module


def test_the_password_reaches_mlflow_and_no_argument(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(os, "execvp", lambda *command: called.append(command))
    script.serve()
    ((program, words),) = called
    assert (program, words[:2]) == ("mlflow", ["mlflow", "server"])
    assert "basic-auth" in words
    assert not any("p%" in word or "w/o" in word for word in words)
    runs = urlsplit(os.environ["MLFLOW_BACKEND_STORE_URI"])
    assert (unquote(runs.password or ""), runs.path, runs.hostname) == (PASSWORD, "/mlflow", "db")
    assert (tmp_path / "mlflow-auth.ini").stat().st_mode & 0o077 == 0

    from mlflow.server.auth.config import read_auth_config

    users = urlsplit(read_auth_config().database_uri)
    assert (unquote(users.password or ""), users.path, users.scheme) == (
        PASSWORD,
        "/mlflow_auth",
        "postgresql+psycopg2",
    )


def test_the_manifest_gives_the_script_what_it_reads(render: Any) -> None:
    manifests = render("base/services")
    (config,) = (m for m in manifests if m["kind"] == "ConfigMap")
    assert config["data"] == {"mlflow_server.py": SCRIPT.read_text()}
    (deployment,) = (m for m in manifests if m["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    for container, action in ((pod["initContainers"][0], "migrate"), (pod["containers"][0], "serve")):
        assert container["command"] == ["python", "/etc/mlflow/mlflow_server.py", action]
        names = {variable["name"] for variable in container["env"]}
        assert {"POSTGRES_HOST", "POSTGRES_USER", "POSTGRES_PASSWORD"} <= names
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_ARTIFACTS_DESTINATION"} <= names


@pytest.fixture
def postgres(shared: Path) -> Iterator[int]:
    """The port of a server with an empty database ``mlflow``, whose user ``ci`` has any password."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="vodbench-"))  # short: sockets have short names
    home.chmod(0o755)
    data, as_user = home / "data", list[str]()
    if os.geteuid() == 0:  # PostgreSQL refuses root
        shutil.chown(home, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    script = [*as_user, "bash", str(shared / "tools" / "postgres_up.sh"), str(data), str(port)]
    subprocess.run(script, check=True, cwd=home, capture_output=True, timeout=120)
    yield port
    os.kill(int((data / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)  # its word for: at once
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_both_databases_are_made_and_found_up_to_date(
    script: ModuleType, postgres: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="needs the extra server")
    for name, value in {"HOST": "127.0.0.1", "PORT": str(postgres), "USER": "ci"}.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)

    def version(database: str, table: str) -> str:
        with psycopg2.connect(script.uri(database, driver="")) as connection, connection.cursor() as cursor:
            cursor.execute(f"select version_num from {table}")
            ((found,),) = cursor.fetchall()
        connection.close()
        return str(found)

    def versions() -> tuple[str, str]:
        return version("mlflow", "alembic_version"), version("mlflow_auth", "alembic_version_auth")

    script.migrate()
    made = versions()
    script.migrate()
    assert versions() == made

    from mlflow.store.db.utils import _get_latest_schema_revision

    assert made[0] == _get_latest_schema_revision()
