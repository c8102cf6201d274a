"""Recording while a sweep runs: in the background, in bounded time, and never in the sweep's way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vodbench.errors import UserError
from vodbench.front.hypervolume import Step
from vodbench.records import TrialRecord
from vodbench.sweeps.folder import StudyFolder
from vodbench.tracking.delivery import Delivery
from vodbench.tracking.server import redact, scrub, unreachable

# After a failure the server is left alone for so long: a sweep of short trials must not wait for it every time.
RETRY_SECONDS = 60.0


class Recorder:
    """Delivers records one after another on a thread of its own.

    A server that is down costs one warning; what it missed stays on disk and goes out with ``finish``, or later with
    ``vodbench sync``.
    """

    def __init__(self, uri: str, folder: StudyFolder, warn: Callable[[str], None]) -> None:
        self._uri = uri
        self._folder = folder
        self._warn = warn
        self._delivery: Delivery | None = None
        self._problem: str | None = None
        self._quiet_until = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._thread.submit(self._guarded, self._connected)

    def deliver(self, record: TrialRecord, steps: Sequence[Step] = ()) -> None:
        """Queue one record, and the hypervolume after each trial so far; returns at once."""

        def deliver_one() -> None:
            delivery = self._connected()
            delivery.deliver(record)
            delivery.log_progress(steps)

        self._thread.submit(self._guarded, deliver_one)

    def finish(self, records: Iterable[TrialRecord], *, complete: bool) -> bool:
        """Deliver everything that is missing, with the front and the sweep's totals; whether MLflow has it all."""
        known = list(records)

        def deliver_rest() -> None:
            delivery = self._connected()
            delivery.deliver_all(known)
            delivery.finish(known, complete=complete)

        self._quiet_until = 0.0
        self._thread.submit(self._guarded, deliver_rest).result()
        self._thread.shutdown()
        if self._problem is not None:
            address = redact(self._uri)
            self._warn(
                f"MLflow at '{address}' did not take everything ({self._problem}). Results are complete in "
                f"'{self._folder.url}'; deliver them with: vodbench sync {self._folder.url} --tracking {address}"
            )
        return self._problem is None

    def _connected(self) -> Delivery:
        if self._delivery is None:
            self._delivery = Delivery(self._uri, self._folder)
        return self._delivery

    def _guarded(self, work: Callable[[], object]) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever MLflow or a database raises: said, kept, delivered later
            first = self._problem is None
            self._problem = scrub(str(error), self._uri)[:200] or type(error).__name__
            self._quiet_until = time.monotonic() + RETRY_SECONDS
            if first:
                self._warn(f"MLflow does not answer: {self._problem}; the sweep goes on, results stay on disk")
        else:
            self._problem = None


def sync(folder: StudyFolder, records: Iterable[TrialRecord], uri: str) -> int:
    """Deliver a study folder now; how many trials were missing. ``UserError`` when the server does not take them."""
    known = list(records)
    try:
        delivery = Delivery(uri, folder)
        delivered = delivery.deliver_all(known)
        delivery.finish(known, complete=True)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - MLflow, databases and HTTP each raise their own
        raise unreachable(uri, f"{type(error).__name__}: {error}") from None
    return delivered
