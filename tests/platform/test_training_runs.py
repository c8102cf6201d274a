"""Training through Ray Train, with processes killed on the way. Each driver is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vodbench.checkpoints import checkpoint_url, load_checkpoint
from vodbench.data_source import DataSource
from vodbench.training import plan_stages
from vodbench.training.peers import Peers
from vodbench.training.worker import TrainingJob, train_stages

WAIT_S = 600.0  # for a busy machine; an idle one needs a twentieth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * WAIT_S + 300)]

# Prints one JSON line a request: the fingerprint, or the kind and text of the error.
DRIVER = """
import json, sys
from vodbench.data_source import DataSource
from vodbench.training import train
import vodbench_learner
for knobs, options, arguments in json.loads(sys.argv[1]):
    source = DataSource(root="/nowhere", kind="learner", options=options)
    try:
        answer = {"fingerprint": train("learner-full", vodbench_learner.LearnerConfig(**knobs), source, **arguments)}
    except Exception as error:
        answer = {"kind": type(error).__name__, "message": str(error), "notes": getattr(error, "__notes__", [])}
    print(json.dumps(answer), flush=True)
"""


class Driver:
    def __init__(self, *requests: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
        command = [sys.executable, "-c", DRIVER, json.dumps(requests)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def answers(self) -> list[dict[str, Any]]:
        output, _ = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0
        # Ray, too, writes to standard output when a worker dies.
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.process.wait()


def _worker_pid(store: Path, iterations: int) -> int:
    """Of rank 0, once it has written a checkpoint and come to ``iterations`` of a stage."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for file in store.rglob("progress.json"):
            progress = json.loads(file.read_text())
            if progress["iteration"] >= iterations and list(store.rglob("partial.pt")):
                return int(progress["pid"])
        time.sleep(0.05)
    raise TimeoutError(f"no worker came to iteration {iterations}")


def _undisturbed(learner: ModuleType, store: Path, **knobs: Any) -> dict[str, torch.Tensor]:
    """The weights of one worker, trained in this process without Ray."""
    config, data = learner.LearnerConfig(**knobs), learner.LearnerData("/nowhere")
    planned = plan_stages("learner-full", config, data.fingerprint, 0)
    job = TrainingJob(
        planned=planned,
        source=DataSource(root="/nowhere", kind="learner"),
        split="train",
        seed=0,
        classes=data.classes,
        data_fingerprint=data.fingerprint,
        revision="",
        store=str(store),
        attempt="undisturbed",
    )
    train_stages(job, Peers())
    return _weights(store, planned[-1].fingerprint)


def _weights(store: Path, fingerprint: str) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(checkpoint_url(str(store), fingerprint)).weights)


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_a_plain_loop(
    learner: ModuleType, tmp_path: Path, drivers: list[Driver]
) -> None:
    knobs = {"iterations": 40}
    store = tmp_path / "disturbed"
    driver = Driver((knobs, {"delay": 0.02}, {"store": str(store), "checkpoint_s": 0.0}))
    drivers.append(driver)
    os.kill(_worker_pid(store, 5), signal.SIGKILL)
    (answer,) = driver.answers()
    _assert_same(_weights(store, answer["fingerprint"]), _undisturbed(learner, tmp_path / "plain", **knobs))
    left = {file.name for file in store.rglob("*") if file.is_file()}
    assert left == {"model.pt", "training.json", "claim"}


def test_a_killed_driver_continues_where_it_was_with_two_workers(
    learner: ModuleType, tmp_path: Path, drivers: list[Driver]
) -> None:
    knobs, stores = {"iterations": 40, "batch": 3}, [tmp_path / "disturbed", tmp_path / "undisturbed"]
    arguments = [{"store": str(store), "workers": 2, "checkpoint_s": 0.0} for store in stores]
    # Slow at first, so that there is time to kill it: 0.4 s a step, 16 s a stage.
    first = Driver((knobs, {"delay": 0.2}, arguments[0]))
    drivers.append(first)
    _worker_pid(stores[0], 5)
    first.process.kill()
    first.process.wait()
    assert not list(stores[0].rglob("model.pt"))
    second = Driver((knobs, {}, arguments[0]), (knobs, {}, arguments[1]))
    drivers.append(second)
    names = [answer["fingerprint"] for answer in second.answers()]
    assert names[0] == names[1]
    _assert_same(_weights(stores[0], names[0]), _weights(stores[1], names[1]))


def test_failures_that_would_repeat_are_said_once_and_clearly(
    learner: ModuleType, tmp_path: Path, drivers: list[Driver]
) -> None:
    arguments = {"store": str(tmp_path / "store")}
    driver = Driver(
        ({}, {}, {**arguments, "workers": 99}),
        ({}, {}, {**arguments, "use_gpu": True, "workers": 99}),
        ({"explode": True}, {}, arguments),
        ({}, {"crash": 21}, arguments),
        ({}, {"bad": 21}, {**arguments, "workers": 2}),
    )
    drivers.append(driver)
    many, gpus, infinite, bug, bad = driver.answers()
    assert many["kind"] == gpus["kind"] == "UserError"
    assert "workers = 99 is not accepted: each needs a CPU" in many["message"]
    assert "each needs a GPU" in gpus["message"]
    assert infinite["kind"] == "TrainingError"
    assert "stage 'base' of learner-base, iteration 3" in infinite["message"]
    assert (bug["kind"], "ZeroDivisionError: a bug in the reader" in bug["message"]) == ("TrainingError", True)
    assert "training_clips" in bug["notes"][0]
    assert (bad["kind"], bad["message"]) == ("UserError", "'/nowhere/21.jpg' does not decode")
    assert not list(tmp_path.rglob("model.pt"))
    assert not list(tmp_path.rglob("failure.json"))
