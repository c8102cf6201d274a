"""The fault suite, its servers, and its table at the end."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from vodbench import registry

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers" / "plugin"))
from faults_servers import Gateway, Mlflow, Proxy
from faults_study import PLUGIN, Place
from faults_suite import Suite
from faults_table import Row, table
from ports import free_port
from vodbench_machines import S3, START_SECONDS, kill_s3, need_package, start_s3

TIMES = int(os.environ.get("VODBENCH_FAULTS", "0"))  # strikes of each fault; 0: the few that every test run does
SEED = int(os.environ.get("VODBENCH_FAULTS_SEED", "0"))
FAULT = "fault"  # the property of a test that keeps its row


@pytest.fixture(scope="session")
def times() -> int:
    """How often each fault strikes; skips where the whole suite was not asked for."""
    if not TIMES:
        pytest.skip("part of 'make faults', which takes its time")
    return TIMES


@pytest.fixture(scope="session")
def lasting_suite(in_memory: str | None) -> Iterator[Suite]:
    """In a folder of a short name, because sockets have short names; the many rounds of a whole suite on a disk."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=None if TIMES else in_memory))
    made = Suite(folder, SEED)
    yield made
    if not made.failed:  # what went wrong is kept to be looked at
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def suite(lasting_suite: Suite) -> Iterator[Suite]:
    """This process judges, and needs to know the method, too; tests of other modules must not see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(lasting_suite.site), str(PLUGIN), *sys.path])
        registry.table.cache_clear()
        yield lasting_suite
    registry.table.cache_clear()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[Row], None]:
    """Where a test leaves the row of its fault, in whichever process it runs."""
    return lambda row: record_property(FAULT, row.cells)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    if rows := [cells for report in reports for name, cells in report.user_properties if name == FAULT]:
        terminalreporter.section("faults")
        for line in table(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def mlflow(suite: Suite) -> Iterator[Mlflow]:
    server = Mlflow(suite.folder / "mlflow", free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def s3(suite: Suite, tools: Path) -> Iterator[tuple[S3, Gateway]]:
    """A gateway whose bucket holds the study's data; this process finds it, whatever stands before it for others."""
    need_package("s3fs", "s3fs")
    folder = suite.folder / "s3"
    script, s3 = start_s3(tools, folder, suite.folder / "s3.log")
    try:
        if script.wait(START_SECONDS) != 0:
            pytest.fail(f"S3 did not start: {(suite.folder / 's3.log').read_text()[-2000:]}")
        s3.fs.mkdir(s3.bucket)
        s3.fs.put(suite.data, s3.url("data"), recursive=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3.variables.items():
                patch.setenv(name, value)
            patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": s3.endpoint})
            yield s3, Gateway(folder, s3.endpoint)
    finally:
        kill_s3(script, folder)


@pytest.fixture
def proxy(s3: tuple[S3, Gateway], tools: Path) -> Iterator[Proxy]:
    port = int(s3[0].endpoint.rpartition(":")[2])
    made = Proxy(tools / "fault_proxy.py", free_port(), port)
    yield made
    made.end()


@pytest.fixture(scope="module")
def in_bucket(s3: tuple[S3, Gateway]) -> Callable[[str], Callable[[Path], Place]]:
    """Endpoint -> a place whose data, weights, features, detections and records are in the bucket."""

    def places(endpoint: str) -> Callable[[Path], Place]:
        def place(home: Path) -> Place:
            variables = {"FSSPEC_S3_ENDPOINT_URL": endpoint}
            return Place(
                home=home, data=s3[0].url("data"), folder=s3[0].url(home.name), variables=variables,
                tracking=f"sqlite:///{home}/mlflow.db",
            )  # fmt: skip

        return place

    return places
