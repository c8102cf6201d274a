"""Commands with ``--ray`` on a cluster of two nodes with a token: code, versions, folders, and a sweep over both."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vodbench.joining import OWN_PACKAGES, packages

pytestmark = pytest.mark.slow

STUDY = """\
name: two-nodes
title: A sweep on two nodes
data: {generate: {snippets: 4, val_snippets: 2, frames: 6, size: 64, classes: 2}}
preset: tiny
settings: {iterations: 6, basic_iterations: 4, warmup_iterations: 1}
methods:
  - {method: rdn-basic, knobs: {T: [1, 2]}}
accuracy: {bootstrap: 50}
runtime: {snippets: 1}
workers: {training: 2, evaluation: 2}
"""

LOOK = """
import json, ray, sys
from vodbench.cluster import start_ray
start_ray(sys.argv[1])

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def look():
    import time, vodbench_methods
    time.sleep(1)
    node = ray.get_runtime_context().get_node_id()
    return ray.util.get_node_ip_address(), vodbench_methods.__dict__.get("MARK"), node

print(json.dumps(ray.get([look.remote() for _ in range(4)])))
"""


@pytest.fixture
def node(cluster: Any) -> Iterator[subprocess.Popen[str]]:
    process = cluster.add_node()
    yield process
    if process in cluster.processes:
        cluster.kill(process)


@pytest.fixture
def study(tmp_path: Path) -> str:
    path = tmp_path / "two-nodes.yaml"
    path.write_text(STUDY)
    return str(path)


@pytest.fixture
def refusal(cluster: Any, study: str, tmp_path: Path) -> Callable[..., str]:
    """The one line with which a sweep is refused; nothing is left behind."""

    def run(**variables: str) -> str:
        done = cluster.run("sweep", study, "--out", str(tmp_path / "out"), "--ray", cluster.address, **variables)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out" / "study.yaml").exists()
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        return line

    return run


def test_a_wrong_token_is_refused(refusal: Callable[..., str]) -> None:
    # Ray's own tries, one a second; by default 20.
    assert "does not accept this process's token" in refusal(token="0" * 64, RAY_NUM_REDIS_GET_RETRIES="2")


@pytest.mark.usefixtures("node")
def test_a_change_of_the_code_reaches_both_nodes(cluster: Any, tmp_path: Path) -> None:
    """The nodes have vodbench installed, in another state: what the driver runs is what they run."""
    for folder in packages():
        if Path(folder).name in OWN_PACKAGES:
            shutil.copytree(folder, tmp_path / Path(folder).name, ignore=shutil.ignore_patterns("__pycache__"))
    for mark in ("first", "second"):
        with (tmp_path / "vodbench_methods" / "__init__.py").open("a") as file:
            file.write(f"\nMARK = {mark!r}\n")
        done = cluster.run(cluster.address, code=LOOK, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout.splitlines()[-1])
        assert {found for _, found, _ in answers} == {mark}
        assert len({node_id for *_, node_id in answers}) == 2
        assert {ip for ip, *_ in answers} == {cluster.head_ip, cluster.node_ip}


def test_a_node_with_another_library_is_refused(cluster: Any, refusal: Callable[..., str], tmp_path: Path) -> None:
    other = tmp_path / "site" / "torch-0.4.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.4.1\n")
    process = cluster.add_node(PYTHONPATH=str(other.parent))
    try:
        line = refusal()
    finally:
        cluster.kill(process)
    assert f"node {cluster.node_ip}" in line
    assert "has torch 0.4.1, this machine torch " in line


def test_a_node_that_does_not_see_the_folder_is_refused(
    cluster: Any, refusal: Callable[..., str], tmp_path: Path
) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to make a mount namespace")
    process = cluster.add_node(hide=str(tmp_path))
    try:
        line = refusal()
    finally:
        cluster.kill(process)
    assert "does not see" in line
    assert str(tmp_path / "out") in line


@pytest.mark.usefixtures("node")
def test_a_sweep_runs_on_both_nodes_and_the_same_command_finds_it_done(
    cluster: Any, study: str, tmp_path: Path
) -> None:
    """Two training workers and two evaluation workers of one CPU each, where a node has one."""
    out = tmp_path / "out"
    command = ("sweep", study, "--out", str(out), "--ray", cluster.address, "--json")
    done = cluster.run(*command)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["trials_complete"], figures["trials_failed"], figures["tracked"]) == (2, 0, True)
    trained = [json.loads(path.read_text()) for path in out.glob("checkpoints/*/training.json")]
    assert trained
    assert {record["workers"] for record in trained} == {2}
    again = cluster.run(*command)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) | {"trials_new": 2} == figures
