"""Trials that are to run again: their records are removed, as if they had never run."""

from __future__ import annotations

from collections.abc import Iterable

from vodbench.records import TrialRecord
from vodbench.storage import filesystem
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.rungs import spare


def forget_failed(folder: StudyFolder) -> None:
    """Failed trials are tried again."""
    _forget(folder, [record for record in folder.records().values() if record.status == "failed"])


def forget_interrupted(folder: StudyFolder) -> None:
    """Trials that failed for what happened around them are tried again: the same command finishes the study."""
    _forget(folder, [record for record in folder.records().values() if record.interrupted])


def spare_stopped(folder: StudyFolder) -> None:
    """Trials that were stopped as hopeless are trained to their end, whatever their rungs say."""
    stopped = [record for record in folder.records().values() if record.status == "stopped"]
    for training in {record.checkpoint for record in stopped if record.checkpoint}:
        spare(folder.url, training)
    _forget(folder, stopped)


def _forget(folder: StudyFolder, records: Iterable[TrialRecord]) -> None:
    for record in records:
        for name in ("error.txt", "trial.json"):
            fs, path = filesystem(folder.trial_url(record.fingerprint, name))
            if fs.exists(path):
                fs.rm(path)
