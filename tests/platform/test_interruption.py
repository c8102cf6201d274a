"""What is told from outside, and that the same command tries it again."""

from __future__ import annotations

import errno

import aiohttp
import botocore.exceptions
import pytest
import ray.exceptions

from vodbench.errors import UserError
from vodbench.interruption import from_outside
from vodbench.records import TrialRecord
from vodbench.studies import parse_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.retrying import forget_interrupted
from vodbench.training.driver import TrainingInterruptedError, _last_progress
from vodbench.training.keeper import Folder, ProgressFile
from vodbench.training.loop import TrainingError

OUTSIDE = [
    ConnectionResetError("reset"),
    TimeoutError("late"),
    OSError(errno.EBUSY, "Please reduce your request rate."),
    OSError(errno.ENOSPC, "No space left on device"),
    aiohttp.ServerDisconnectedError(),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://gateway"),
    ray.exceptions.WorkerCrashedError(),
    ray.exceptions.ActorDiedError(),
    ray.exceptions.NodeDiedError("gone"),
    TrainingInterruptedError("training workers died more than 3 times"),
]
OWN = [
    ValueError("a bug"),
    UserError("a frame does not decode"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Access denied"),
    OSError("cannot identify image file"),
    TrainingError("the loss is not finite"),
]


@pytest.mark.parametrize("error", OUTSIDE, ids=lambda error: type(error).__name__)
def test_what_comes_from_outside_is_told_however_it_is_wrapped(error: Exception) -> None:
    assert from_outside(error)
    for wrapped in (UserError("cannot be reached"), RuntimeError("an evaluation worker died")):
        wrapped.__cause__ = error
        assert from_outside(wrapped)
    task = ray.exceptions.RayTaskError("read", "traceback", error)
    assert from_outside(task)


@pytest.mark.parametrize("error", OWN, ids=lambda error: type(error).__name__)
def test_a_fault_of_the_work_itself_is_none(error: Exception) -> None:
    assert not from_outside(error)
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = error
    assert not from_outside(wrapped)


@pytest.mark.parametrize("error", [*OUTSIDE, *OWN], ids=lambda error: type(error).__name__)
def test_storage_out_of_reach_does_not_end_the_wait_for_a_training(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: ProgressFile) -> None:
        raise error

    monkeypatch.setattr(ProgressFile, "read", read)
    progress = ProgressFile(Folder("store", "stage"), "attempt")
    if error in OUTSIDE:
        assert _last_progress(progress) is None
    else:
        with pytest.raises(type(error)):
            _last_progress(progress)


def test_only_interrupted_trials_are_forgotten(tmp_path: object) -> None:
    folder = StudyFolder(str(tmp_path))
    folder.claim(parse_study({"name": "s", "title": "t", "methods": [{"method": "m"}]}, "s"), "data")
    for name, interrupted in (("own", False), ("outside", True)):
        record = TrialRecord(
            fingerprint=name, study="s", method="m", paper="", config={}, knobs={}, seed=0, status="failed",
            interrupted=interrupted,
        )  # fmt: skip
        folder.write_record(record)
        assert folder.record(name) == record
    forget_interrupted(folder)
    assert set(folder.records()) == {"own"}
