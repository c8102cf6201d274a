"""Starting Ray: what it is given, and what happens when a cluster does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vodbench import cluster

EMBEDDED = """
import json, os, ray, threading, time
from vodbench.cluster import start_ray, stop_ray
starter = threading.Thread(target=lambda: start_ray(num_cpus=3))
starter.start()
starter.join()
time.sleep(2)  # what the kernel kills with the thread would be gone by now
first = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().get_node_id()
start_ray()
again = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().get_node_id()

@ray.remote(num_cpus=0.5)
def look():
    import vodbench, vodbench_datasets, vodbench_methods
    return os.environ["OMP_NUM_THREADS"], os.environ["RAY_USAGE_STATS_ENABLED"], os.getcwd() == here

here = os.getcwd()
seen = ray.get(look.remote())
resources = ray.cluster_resources()
stop_ray()
print(json.dumps([first == again, seen, resources["CPU"], resources["object_store_memory"], ray.is_initialized()]))
"""


@pytest.mark.parametrize(("free_mib", "expected_mib"), [(512, 256), (6000, 600), (100_000, 1024)])
def test_the_object_store_is_bounded(free_mib: int, expected_mib: int) -> None:
    assert cluster.object_store_bytes(free_mib * cluster.MIB) == expected_mib * cluster.MIB


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    cluster.prepare_environment()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.slow
def test_the_embedded_ray_is_small_offline_and_leaves_no_token(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_TOKEN", None)
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED], capture_output=True, text=True, env=environment, check=True, timeout=300
    )
    same, seen, cpus, store, running = json.loads(done.stdout.splitlines()[-1])
    assert same
    assert seen == ["1", "0", True]
    assert cpus == 3
    assert 256 * cluster.MIB <= store <= 1024 * cluster.MIB
    assert not running
    assert not (tmp_path / ".ray").exists()


@pytest.mark.parametrize(
    ("failures", "message", "tries"),
    [(0, "", 1), (2, "The current node timed out during startup.", 3), (1, "no memory left", 1)],
)
def test_a_start_that_is_too_slow_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, failures: int, message: str, tries: int
) -> None:
    started: list[int] = []

    def init(**options: object) -> None:
        started.append(1)
        if len(started) <= failures:
            raise Exception(message)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    if tries <= failures:
        with pytest.raises(Exception, match=message):
            cluster._start_embedded(1, dashboard=False)
    else:
        cluster._start_embedded(1, dashboard=False)
    assert len(started) == tries


def test_a_machine_that_is_never_fast_enough_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with pytest.raises(Exception, match="timed out during startup"):
        cluster._start_embedded(1, dashboard=False)
