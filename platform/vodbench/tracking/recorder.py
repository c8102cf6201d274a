"""Recording while a sweep runs: in the background, in bounded time, and never in the sweep's way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from vodbench.errors import OneLineError, OutOfReachError
from vodbench.front.hypervolume import Step
from vodbench.records import TrialRecord
from vodbench.redaction import redact
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking.delivery import Delivery
from vodbench.tracking.optuna_study import OptunaStudy
from vodbench.tracking.reaching import OPTUNA, TRACKING, login_refused, problem_of, unreachable

# After a failure the server is left alone for so long: a sweep of short trials must not wait for it every time.
RETRY_SECONDS = 60.0


class Destination(Protocol):
    """Where records are delivered to. Every method may raise what its library raises, and can be repeated."""

    def deliver(self, records: Iterable[TrialRecord]) -> int:
        """Deliver these; how many were missing."""
        ...

    def deliver_all(self, records: Iterable[TrialRecord]) -> int:
        """Deliver what is missing of all records, with what follows from them together; how many were missing."""
        ...

    def log_progress(self, steps: Sequence[Step]) -> None:
        """Deliver what is missing of the hypervolume after each trial, where there is a place for it."""
        ...

    def finish(self, records: Iterable[TrialRecord], *, complete: bool) -> None:
        """Say that the sweep has ended, and whether it is complete."""
        ...

    def stop(self) -> None:
        """Say that the sweep was ended, and nothing of its records, which are out of reach."""
        ...


@dataclass(frozen=True)
class Kind:
    """What is recorded to, in messages: its name, what its address is for, and the option that gives it."""

    name: str
    what: str
    option: str
    open: Callable[[str, StudyFolder], Destination]


MLFLOW = Kind("MLflow", TRACKING, "--tracking", Delivery)
OPTUNA_STUDY = Kind("Optuna's storage", OPTUNA, "--optuna-storage", OptunaStudy)


class Recorder:
    """Delivers records on a thread of its own.

    A server that is down costs one warning; what it missed stays on disk and goes out with ``finish``, or later with
    ``vodbench sync``.
    """

    def __init__(self, uri: str, folder: StudyFolder, warn: Callable[[str], None], kind: Kind = MLFLOW) -> None:
        self._uri = uri
        self._folder = folder
        self._warn = warn
        self._kind = kind
        self._destination: Destination | None = None
        self._problem: str | None = None
        self._quiet_until = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._thread.submit(self._guarded, self._connected)

    def deliver(self, records: Sequence[TrialRecord], steps: Sequence[Step] = ()) -> None:
        """Queue these, and the hypervolume after each trial so far; returns at once."""

        def deliver_now() -> None:
            destination = self._connected()
            destination.deliver(records)
            destination.log_progress(steps)

        self._thread.submit(self._guarded, deliver_now)

    def finish(self, records: Iterable[TrialRecord], *, complete: bool) -> bool:
        """Deliver everything that is missing, with the front and the sweep's totals; whether it is all there."""
        known = list(records)

        def deliver_rest() -> None:
            destination = self._connected()
            try:
                destination.deliver_all(known)
                destination.finish(known, complete=complete)
            except OutOfReachError:
                destination.stop()
                raise

        self._end(deliver_rest)
        if self._problem is not None:
            address, url = redact(self._uri), self._folder.url
            self._warn(
                f"{self._kind.name} at '{address}' did not take everything ({self._problem}). Results are complete in "
                f"'{url}'; deliver them with: vodbench sync {url} {self._kind.option} {address}"
            )
        return self._problem is None

    def stop(self) -> None:
        """Instead of ``finish``, when the records are out of reach."""
        self._end(lambda: self._connected().stop())

    def _end(self, work: Callable[[], object]) -> None:
        def last() -> None:
            self._quiet_until = 0.0  # here, because what is queued before it may fail yet
            self._guarded(work, "results stay on disk")

        self._thread.submit(last).result()
        self._thread.shutdown()

    def _connected(self) -> Destination:
        if self._destination is None:
            self._destination = self._kind.open(self._uri, self._folder)
        return self._destination

    def _guarded(self, work: Callable[[], object], so: str = "the sweep goes on, results stay on disk") -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever MLflow or a database raises: said, kept, delivered later
            first = self._problem is None
            self._problem = str(login_refused(error, self._uri) or problem_of(error, self._uri))[:300]
            self._quiet_until = time.monotonic() + RETRY_SECONDS
            if first:
                self._warn(f"{self._kind.name} does not take results: {self._problem}; {so}")
        else:
            self._problem = None


def sync(folder: StudyFolder, records: Iterable[TrialRecord], uri: str, kind: Kind = MLFLOW) -> int:
    """Deliver a study folder now; how many trials were missing. ``unreachable`` says why it does not take them."""
    known = list(records)
    try:
        destination = kind.open(uri, folder)
        delivered = destination.deliver_all(known)
        destination.finish(known, complete=True)
    except OneLineError:
        raise
    except Exception as error:  # noqa: BLE001 - MLflow, databases and HTTP each raise their own
        raise unreachable(uri, error, kind.what) from None
    return delivered
