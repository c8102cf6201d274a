"""What follows from trials that ended: the hypervolume's history on disk, then what MLflow and Optuna are told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from vodbench.front.hypervolume import write_history
from vodbench.records import TrialRecord
from vodbench.tracking.recorder import Recorder

SECONDS = 2.0  # trials that end within so much time are written down together: a sweep may end a hundred a second


class Journal:
    """Trials one after another, as they end. The history is on disk before anybody is told of it.

    What was not written down when a sweep ends, or is killed, is on disk as records, and goes out from there.
    """

    def __init__(self, folder: str, known: Mapping[str, TrialRecord], recorders: Sequence[Recorder]) -> None:
        """``known``: all records of the study's folder by fingerprint, kept up to date by the caller."""
        self._folder = folder
        self._known = known
        self._recorders = recorders
        self._new: list[TrialRecord] = []
        self._written = float("-inf")

    def add(self, record: TrialRecord) -> None:
        self._new.append(record)
        self.write_when_due()

    def write_when_due(self) -> None:
        """To be called every now and then. ``OSError`` and ``UserError`` when the folder does not take it."""
        if not self._new or time.monotonic() - self._written < SECONDS:
            return
        steps = write_history(self._folder, list(self._known.values()))
        new, self._new = self._new, []
        for recorder in self._recorders:
            recorder.deliver(new, steps)
        self._written = time.monotonic()
