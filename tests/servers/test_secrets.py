"""Secrets that a user gives are in nothing that a sweep leaves behind or says: planted, then looked for everywhere."""

from __future__ import annotations

import subprocess

import pytest
from vodbench_machines import S3, Mlflow, Swept

pytestmark = pytest.mark.slow


@pytest.fixture
def planted(s3: S3, mlflow: Mlflow, swept: Swept) -> list[str]:
    """In AWS_*, in the address of MLflow, in that of Optuna's storage, in MLFLOW_TRACKING_PASSWORD."""
    return [s3.secret, mlflow.password, "planted-postgres-pw", "planted-unused-pw"]


def assert_clean(what: str, data: bytes, secrets: list[str]) -> None:
    for secret in secrets:
        assert secret.encode() not in data, f"{secret} is in {what}"


def test_none_is_in_the_bucket(swept: Swept, s3: S3, planted: list[str]) -> None:
    files = s3.fs.find("bench")
    assert any(file.endswith("report.html") for file in files)
    for file in files:
        assert_clean(file, s3.fs.cat_file(file), planted)


def test_none_is_in_the_databases(swept: Swept, planted: list[str]) -> None:
    for name in ("mlflow", "optuna"):
        address = swept.optuna_storage.replace("+psycopg2", "").rpartition("/")[0]
        dump = subprocess.run(["pg_dump", f"{address}/{name}"], check=True, capture_output=True).stdout
        assert b"rdn" in dump
        assert_clean(f"database {name}", dump, planted)


def test_none_was_printed(swept: Swept, planted: list[str]) -> None:
    assert "trials" in swept.printed
    assert_clean("the output", swept.printed.encode(), planted)


def test_none_is_in_rays_logs(swept: Swept, planted: list[str]) -> None:
    logs = [file for file in (swept.folder.parent / "ray").rglob("*") if file.is_file()]
    assert any(file.name.startswith("worker") for file in logs)
    for file in logs:
        assert_clean(str(file), file.read_bytes(), planted)
