"""Sweeps that are struck at seeded random moments: the same command finishes them, and nobody can tell afterwards.

Nothing is lost, nothing that was finished runs again, nothing differs from the study that was left alone. A few strikes
are part of every test run; ``make faults`` does each fault as often as it takes, and prints the table.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from faults_disturb import Fault
from faults_kinds import KilledDriver, KilledWorker
from faults_nodes import KilledNode, Nodes
from faults_servers import Gateway, KilledServer, Misbehaving, Mlflow, Proxy
from faults_study import FEW, MANY, TRAININGS, Command, Place
from faults_suite import LIMIT_S, Suite
from faults_table import Row
from vodbench_machines import S3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(20 * LIMIT_S)]

# The title of the processes, the seconds between strikes, the study where it must be a certain one.
WORKERS: Mapping[str, tuple[str, tuple[float, float], Mapping[str, list[float]] | None]] = {
    "trial": ("ray::ImplicitFunc", (1.0, 6.0), None),
    "training worker": ("ray::RayTrainWorker", (0.5, 4.0), TRAININGS),
    "evaluation worker": ("ray::_run", (0.2, 2.0), None),
}
ENOUGH = 10  # strikes from which on a study needs many trials, to be met in
# What the proxy is told, and for how long.
PROXY: Mapping[str, tuple[Mapping[str, Any], tuple[float, float]]] = {
    "0.5 s latency": ({"latency": 0.5}, (2.0, 6.0)),
    "20% of 503": ({"p503": 0.2}, (2.0, 6.0)),
    "resets mid-body": (
        {"n_reset": lambda rng: rng.randint(1, 3), "reset_after": lambda rng: rng.randint(1, 3000)},
        (1, 3),
    ),
    "a hang": ({"latency": 3600.0}, (0.1, 2.0)),
}
Places = Callable[[str], Callable[[Path], Place]]
Tell = Callable[[Row], None]


class Each:
    """Several faults, one after another and round again."""

    name = "each in turn"
    pause_s = (1.0, 4.0)

    def __init__(self, faults: list[Fault]) -> None:
        self._faults, self._next = faults, 0

    def strike(self, command: Command, rng: random.Random) -> bool:
        struck = self._faults[self._next % len(self._faults)].strike(command, rng)
        self._next += struck
        return struck

    def mend(self) -> None:
        for fault in self._faults:
            fault.mend()


def trials(times: int) -> Mapping[str, list[float]]:
    return MANY if times >= ENOUGH else FEW


def killed_driver() -> KilledDriver:
    return KilledDriver((0.0, 5.0), after_s=20.0)


def killed(name: str) -> KilledWorker:
    title, pause_s, _ = WORKERS[name]
    return KilledWorker(name, title, pause_s)


def conclude(row: Row, times: int, tell: Tell) -> None:
    tell(row)
    assert not row.verdict, row.verdict
    assert row.times == times


def test_a_sweep_that_loses_each_kind_of_process(suite: Suite, tell: Tell) -> None:
    faults: list[Fault] = [killed("training worker"), killed("trial"), killed("evaluation worker")]
    faults.append(killed_driver())
    conclude(suite.strike(Each(faults), len(faults), FEW), len(faults), tell)


def test_killed_drivers(suite: Suite, times: int, tell: Tell) -> None:
    conclude(suite.strike(killed_driver(), times, TRAININGS), times, tell)


@pytest.mark.parametrize("name", WORKERS)
def test_killed_workers(suite: Suite, name: str, times: int, tell: Tell) -> None:
    conclude(suite.strike(killed(name), times, WORKERS[name][2] or trials(times)), times, tell)


def test_killed_nodes(suite: Suite, times: int, tell: Tell) -> None:
    nodes = Nodes(suite)
    try:
        row = suite.strike(KilledNode(nodes, (5.0, 25.0)), times, trials(times), nodes.place)
    finally:
        nodes.end()
    conclude(row, times, tell)


def test_killed_tracking_servers(suite: Suite, times: int, mlflow: Mlflow, tell: Tell) -> None:
    fault = KilledServer("MLflow server", mlflow, (0.5, 5.0))

    def place(home: Path) -> Place:
        return dataclasses.replace(suite.local(home), tracking=mlflow.url)

    conclude(suite.strike(fault, times, trials(times), place), times, tell)


def test_killed_gateways(suite: Suite, times: int, s3: tuple[S3, Gateway], in_bucket: Places, tell: Tell) -> None:
    gateway = s3[1]
    fault = KilledServer("S3 server", gateway, (1.0, 8.0))
    conclude(suite.strike(fault, times, trials(times), in_bucket(gateway.endpoint)), times, tell)


@pytest.mark.parametrize("name", PROXY)
def test_a_gateway_that_misbehaves(
    suite: Suite, name: str, times: int, proxy: Proxy, in_bucket: Places, tell: Tell
) -> None:
    plan, for_s = PROXY[name]
    fault = Misbehaving(name, proxy, plan, for_s, (1.0, 5.0))
    conclude(suite.strike(fault, times, trials(times), in_bucket(proxy.endpoint)), times, tell)
