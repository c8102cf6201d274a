"""A Ray cluster of two nodes on this machine, one of which is killed whole and replaced."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from faults_kinds import WORK, title_of
from faults_study import Command, Place, environment
from faults_suite import Suite
from ports import free_port

START_S = 240.0
# Ray takes a node for dead after half a minute; nobody waits that long here.
RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}


class Node:
    """One ``ray start`` with all that it starts."""

    def __init__(self, words: list[str], variables: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2", *words]
        # The usual ports belong to whichever Ray of this machine came first.
        command += [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--object-store-memory={100 * 2**20}", "--disable-usage-stats"]
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env={**os.environ, **RAY, **variables}, stdout=file, stderr=file, start_new_session=True
            )

    def busy(self) -> bool:
        """Whether it does anything for a sweep."""
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            return any(title_of(process).startswith(WORK) for process in children)
        return False

    def kill(self) -> None:
        """All its processes at once, as when the power goes."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


class Cluster:
    """A head and one more node; ``variables`` are what their workers find in the environment."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._variables, self._log = variables, folder / "nodes.log"
        words = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        words += [f"--ray-client-server-port={free_port()}", f"--temp-dir={folder / 'ray'}"]
        self._head = Node(words, variables, self._log)
        self._wait(1)
        self._second = self._start_second()
        self._wait(2)

    def _start_second(self) -> Node:
        return Node([f"--address={self.address}", "--node-ip-address=127.0.0.1"], self._variables, self._log)

    def _wait(self, nodes: int) -> None:
        """Until so many nodes are there: each says so in the log, in the end."""
        until = time.monotonic() + START_S
        while self._log.read_text(errors="replace").count("Ray runtime started") < nodes:
            assert time.monotonic() < until, self._log.read_text(errors="replace")[-2000:]
            time.sleep(0.2)

    def replace_second(self) -> bool:
        """False where it has nothing to lose."""
        if not self._second.busy():
            return False
        self._second.kill()
        self._second = self._start_second()
        return True

    def end(self) -> None:
        self._second.kill()
        self._head.kill()


class Nodes:
    """A cluster for each round: its workers leave their lines where that round looks for them."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self.cluster: Cluster | None = None

    def place(self, home: Path) -> Place:
        self.end()
        place = self._suite.local(home)
        folder = Path(tempfile.mkdtemp(prefix="nodes-", dir=self._suite.folder))
        self.cluster = Cluster(folder, environment(self._suite.site, place))
        return dataclasses.replace(place, words=("--ray", self.cluster.address), variables=RAY)

    def end(self) -> None:
        if self.cluster is not None:
            self.cluster.end()
        self.cluster = None


class KilledNode:
    """The node that is not the head goes, and another comes."""

    name = "node"

    def __init__(self, nodes: Nodes, pause_s: tuple[float, float]) -> None:
        self.pause_s = pause_s
        self._nodes = nodes

    def strike(self, command: Command, rng: random.Random) -> bool:
        assert self._nodes.cluster is not None
        return self._nodes.cluster.replace_second()

    def mend(self) -> None:
        """It is replaced already."""
