"""A Ray cluster of two real nodes: two sets of Ray's processes, the second in network and mount namespaces of its own.

Where namespaces are not permitted both nodes share this machine's network, and what needs them is skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from ports import free_port

RAY = Path(sys.executable).with_name("ray")
START_SECONDS = 180.0
COMMAND_SECONDS = 500.0
STORE_BYTES = 200_000_000


@dataclass
class Cluster:
    """``head`` and as many nodes as were added; each hands out one CPU."""

    port: int
    token: str
    head_ip: str = "127.0.0.1"
    namespace: str | None = None
    node_ip: str = "127.0.0.1"
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.head_ip}:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}

    def run(
        self, *arguments: str, token: str | None = None, code: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of a user on the head's machine: ``vodbench ...``, or Python with ``code``."""
        command = [sys.executable, "-c", code] if code else [str(RAY.with_name("vodbench"))]
        environment = os.environ | self.variables | variables
        if token is not None:
            environment["RAY_AUTH_TOKEN"] = token
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )

    def start_head(self) -> None:
        self._start("--head", f"--port={self.port}", f"--node-ip-address={self.head_ip}", "--include-dashboard=false")

    def add_node(self, *, hide: str | None = None, **variables: str) -> subprocess.Popen[str]:
        """``hide``: a folder that is another one for this node. ``variables``: of its processes."""
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        if hide is not None:
            inside += [] if self.namespace else ["unshare", "--mount"]
            inside += ["sh", "-c", f"mount -t tmpfs none '{hide}' && exec \"$@\"", "sh"]
        return self._start(
            f"--address={self.address}", f"--node-ip-address={self.node_ip}", inside=inside, variables=variables
        )

    def _start(
        self, *options: str, inside: list[str] | None = None, variables: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        command = [
            *(inside or []), str(RAY), "start", *options, "--num-cpus=1", f"--object-store-memory={STORE_BYTES}",
            "--disable-usage-stats", "--block",
        ]  # fmt: skip
        process = subprocess.Popen(
            command, env=os.environ | self.variables | (variables or {}), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        late = threading.Timer(START_SECONDS, process.kill)
        late.start()
        try:
            seen = ""
            for line in process.stdout:
                seen += line
                if "runtime started" in line:
                    return process
        finally:
            late.cancel()
        raise AssertionError(f"the node did not start within {START_SECONDS:.0f} s, or ended: {seen}")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """The whole node at once, as a machine that loses its power."""
        self.processes.remove(process)
        there = psutil.Process(process.pid)
        for part in [there, *there.children(recursive=True)]:
            try:
                part.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.wait()

    def end(self) -> None:
        for process in reversed(list(self.processes)):
            self.kill(process)


def _unused_subnet() -> str:
    """The first three numbers of 254 addresses that no interface of this machine has.

    A run that was killed leaves its cable behind: what is sent to addresses on two cables goes to the older one.
    """
    taken = {at.address.rpartition(".")[0] for of_one in psutil.net_if_addrs().values() for at in of_one}
    free = [subnet for subnet in (f"10.213.{low}" for low in range(1, 251)) if subnet not in taken]
    return secrets.choice(free)


@pytest.fixture(scope="session")
def network() -> Iterator[dict[str, Any]]:
    """Names and addresses of a namespace that reaches this machine over a pair of virtual cables; {} without one."""
    name = f"vb{uuid.uuid4().hex[:6]}"
    here, there = f"{name}h", f"{name}n"
    subnet = _unused_subnet()
    head_ip, node_ip = f"{subnet}.1", f"{subnet}.2"
    inside = ["ip", "netns", "exec", name]
    steps = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", here, "type", "veth", "peer", "name", there],
        ["ip", "link", "set", there, "netns", name],
        ["ip", "addr", "add", f"{head_ip}/24", "dev", here],
        ["ip", "link", "set", here, "up"],
        [*inside, "ip", "addr", "add", f"{node_ip}/24", "dev", there],
        [*inside, "ip", "link", "set", there, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
    ]
    possible = shutil.which("ip") is not None
    for step in steps:
        possible = possible and subprocess.run(step, capture_output=True).returncode == 0
    yield {"head_ip": head_ip, "node_ip": node_ip, "namespace": name} if possible else {}
    if shutil.which("ip") is not None:
        subprocess.run(["ip", "link", "del", here], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def cluster(network: dict[str, Any]) -> Iterator[Cluster]:
    """A head, alone."""
    made = Cluster(port=free_port(), token=secrets.token_hex(32), **network)
    try:
        made.start_head()
        yield made
    finally:
        made.end()
