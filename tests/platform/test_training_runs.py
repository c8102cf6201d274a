"""Training through Ray Train, with processes killed on the way. Drivers are processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vodbench.checkpoints import checkpoint_url, load_checkpoint
from vodbench.data_source import DataSource
from vodbench.training import plan_stages
from vodbench.training.keeper import Folder
from vodbench.training.peers import Peers
from vodbench.training.worker import TrainingJob, train_stages

WAIT_S = 600.0  # for a busy machine; an idle one needs a twentieth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * WAIT_S + 300)]

# One JSON line a request, and one in answer: the fingerprint, or the kind and text of the error.
DRIVER = """
import json, sys
from vodbench.data_source import DataSource
from vodbench.training import train
import vodbench_learner
for line in sys.stdin:
    knobs, options, arguments = json.loads(line)
    source = DataSource(root="/nowhere", kind="learner", options=options)
    try:
        answer = {"fingerprint": train("learner-full", vodbench_learner.LearnerConfig(**knobs), source, **arguments)}
    except Exception as error:
        answer = {"kind": type(error).__name__, "message": str(error), "notes": getattr(error, "__notes__", [])}
    print(json.dumps(answer), flush=True)
"""


class Driver:
    """Trains what it is asked for, one after another, with one Ray: starting that costs as much as a training."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", DRIVER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *requests: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> None:
        """Each: knobs, options of the data, arguments of ``train``."""
        assert self.process.stdin is not None
        for request in requests:
            self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answers(self, count: int) -> list[dict[str, Any]]:
        """As many as were asked for."""
        assert self.process.stdout is not None
        # Ray, too, writes to standard output when a worker dies.
        answers = (json.loads(line) for line in self.process.stdout if line.startswith("{"))
        found = list(islice(answers, count))
        assert len(found) == count, "the driver ended"
        return found

    def end(self) -> None:
        """With its Ray."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(WAIT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def driver(learner: ModuleType) -> Iterator[Driver]:
    """One for all tests, after ``learner``, which it has to find."""
    started = Driver()
    yield started
    started.end()


@pytest.fixture
def other_driver(learner: ModuleType) -> Iterator[Driver]:
    """One to be killed."""
    started = Driver()
    yield started
    started.kill()


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


def test_a_paused_training_whose_worker_is_killed_ends_with_the_weights_of_a_plain_loop(
    learner: ModuleType, tmp_path: Path, driver: Driver
) -> None:
    knobs = {"iterations": 40}
    store = tmp_path / "disturbed"
    arguments = {"store": str(store), "checkpoint_s": 0.0}
    driver.ask((knobs, {}, {**arguments, "until": [10]}))
    (paused,) = driver.answers(1)
    assert Path(Folder(str(store), paused["fingerprint"]).paused_url(10)).exists()
    driver.ask((knobs, {"delay": 0.05}, arguments))
    os.kill(_worker_pid(store, 11), signal.SIGKILL)
    (answer,) = driver.answers(1)
    assert answer == paused
    _assert_same(_weights(store, answer["fingerprint"]), _undisturbed(learner, tmp_path / "plain", **knobs))
    left = {file.name for file in store.rglob("*") if file.is_file()}
    assert left == {"model.pt", "training.json", "claim"}


def test_a_killed_driver_continues_where_it_was_with_two_workers(
    tmp_path: Path, driver: Driver, other_driver: Driver
) -> None:
    knobs, stores = {"iterations": 40, "batch": 3}, [tmp_path / "disturbed", tmp_path / "undisturbed"]
    arguments = [{"store": str(store), "workers": 2, "checkpoint_s": 0.0} for store in stores]
    # Slow at first, so that there is time to kill it: 0.4 s a step, 16 s a stage.
    other_driver.ask((knobs, {"delay": 0.2}, arguments[0]))
    _worker_pid(stores[0], 5)
    other_driver.kill()
    assert not list(stores[0].rglob("model.pt"))
    driver.ask((knobs, {}, arguments[0]), (knobs, {}, arguments[1]))
    names = [answer["fingerprint"] for answer in driver.answers(2)]
    assert names[0] == names[1]
    _assert_same(_weights(stores[0], names[0]), _weights(stores[1], names[1]))


def test_failures_that_would_repeat_are_said_once_and_clearly(tmp_path: Path, driver: Driver) -> None:
    arguments = {"store": str(tmp_path / "store")}
    driver.ask(
        ({}, {}, {**arguments, "workers": 99}),
        ({}, {}, {**arguments, "use_gpu": True, "workers": 99}),
        ({"explode": True}, {}, arguments),
        ({}, {"crash": 21}, arguments),
        ({}, {"bad": 21}, {**arguments, "workers": 2}),
    )
    many, gpus, infinite, bug, bad = driver.answers(5)
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
