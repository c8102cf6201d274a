"""Servers that are killed and come back, and a proxy before one of them that misbehaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from faults_study import Command
from vodbench_machines import answers

START_S = 120.0


class Server(Protocol):
    def kill(self) -> None:
        """At once, with all its processes."""
        ...

    def start(self) -> None:
        """Start it, and wait until it answers."""
        ...


class KilledServer:
    """The server is killed, stays away for a while (``away_s``) and comes back."""

    def __init__(
        self, name: str, server: Server, pause_s: tuple[float, float], away_s: tuple[float, float] = (0.2, 5.0)
    ) -> None:
        self.name, self.pause_s = name, pause_s
        self._server, self._away_s = server, away_s

    def strike(self, command: Command, rng: random.Random) -> bool:
        self._server.kill()
        time.sleep(rng.uniform(*self._away_s))
        self._server.start()
        return True

    def mend(self) -> None:
        """It is back already."""


@dataclass(frozen=True)
class Gateway:
    """The S3 gateway of a Ceph cluster in ``folder``; the objects are kept by others, which stay."""

    folder: Path
    endpoint: str

    def kill(self) -> None:
        file = self.folder / "run" / "client.rgw.pid"
        pid = int(file.read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.02)

    def start(self) -> None:
        environment = os.environ | {"CEPH_CONF": str(self.folder / "ceph.conf")}
        subprocess.run(["radosgw", "-n", "client.rgw"], env=environment, check=True, capture_output=True)
        until = time.monotonic() + START_S
        while not answers(self.endpoint):
            assert time.monotonic() < until, f"the gateway did not come back: see {self.folder / 'log'}"
            time.sleep(0.05)


class Mlflow:
    """A tracking server on ``port`` whose runs and artifacts are in ``folder``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log"
        words = f"server --host 127.0.0.1 --port {port} --workers 1 --backend-store-uri sqlite:///{folder}/mlflow.db"
        self._command = [sys.executable, "-m", "mlflow", *words.split(), "--artifacts-destination", str(folder / "art")]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def start(self) -> None:
        variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while not answers(f"{self.url}/health"):
            assert time.monotonic() < until, f"MLflow did not start: {self._log.read_text()[-2000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Proxy:
    """``fault_proxy.py`` on ``port`` before the server on ``upstream``."""

    def __init__(self, script: Path, port: int, upstream: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(script), str(port), str(upstream)]
        self._process = subprocess.Popen(command, start_new_session=True)  # a Ctrl-C is not for it
        until = time.monotonic() + START_S
        while not answers(f"{self.endpoint}/__faults"):
            assert time.monotonic() < until, "the fault proxy did not start"
            time.sleep(0.05)

    def plan(self, **plan: Any) -> Mapping[str, Any]:
        """Change its plan; what it does now, and how often it has."""
        request = urllib.request.Request(f"{self.endpoint}/__faults", json.dumps(plan).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: Mapping[str, Any] = json.loads(answer.read())
            return found

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


CALM: Mapping[str, Any] = {"latency": 0.0, "p503": 0.0, "n503": 0, "n_reset": 0, "reset_after": None}


class Misbehaving:
    """For a while (``for_s``) the proxy does what ``plan`` says, to every request that comes."""

    def __init__(
        self, name: str, proxy: Proxy, plan: Mapping[str, Any], for_s: tuple[float, float], pause_s: tuple[float, float]
    ) -> None:
        self.name, self.pause_s = name, pause_s
        self._proxy, self._plan, self._for_s = proxy, plan, for_s

    def strike(self, command: Command, rng: random.Random) -> bool:
        """False where no request came that it could have hit."""
        drawn = {key: value(rng) if callable(value) else value for key, value in self._plan.items()}
        before = self._proxy.plan(**drawn)["requests"]
        time.sleep(rng.uniform(*self._for_s))
        return bool(self._proxy.plan(**CALM)["requests"] > before)

    def mend(self) -> None:
        self._proxy.plan(**CALM)
