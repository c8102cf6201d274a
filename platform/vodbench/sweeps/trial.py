"""One trial from weights to record: train once, detect, evaluate, measure, write ``trial.json``."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from vodbench.interruption import from_outside, reason_of
from vodbench.records import TrialRecord
from vodbench.redaction import redact, redact_line
from vodbench.storage import write_text
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.halving import HopelessError, give_up_if_hopeless
from vodbench.sweeps.steps import OnProgress, Steps, TrialContext, TrialJob

DETECTIONS = "detections.parquet"


def run_trial(job: TrialJob, context: TrialContext, steps: Steps, on_progress: OnProgress) -> TrialRecord:
    """Run ``job`` unless its record is on disk; return the record.

    Any exception of a step becomes a failed record with a one-line reason (and ``error.txt`` with the traceback), so
    that one bad trial does not stop a sweep. One that came from outside is marked: the next sweep tries again. A
    training that is given up as hopeless becomes a stopped record.
    """
    folder = StudyFolder(context.folder)
    known = folder.record(job.fingerprint)
    if known is not None:
        return known
    started = datetime.now(UTC).isoformat(timespec="seconds")
    seconds: dict[str, float] = {}
    try:
        outcome = _outcome(job, context, steps, on_progress, seconds)
    except HopelessError as hopeless:
        training = steps.training_fingerprint(job, context)
        outcome = {"status": "stopped", "reason": str(hopeless), "checkpoint": training}
    except Exception as error:  # noqa: BLE001 - recorded with its reason and traceback
        write_text(folder.trial_url(job.fingerprint, "error.txt"), redact(traceback.format_exc()))
        outcome = {"status": "failed", "reason": reason_of(error), "interrupted": from_outside(error)}
    record = _record(job, context, started=started, seconds=seconds, **outcome)
    folder.write_record(record)
    return record


def failed_record(job: TrialJob, context: TrialContext, reason: str) -> TrialRecord:
    """The record of a trial whose process could not write one itself."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    why = redact_line(reason)
    return _record(job, context, started=now, seconds={}, status="failed", reason=why, interrupted=True)


def _outcome(
    job: TrialJob, context: TrialContext, steps: Steps, on_progress: OnProgress, seconds: dict[str, float]
) -> dict[str, Any]:
    with _timed(seconds, "train"):
        give_up_if_hopeless(job, context, steps, on_progress)
        checkpoint = steps.train(job, context, on_progress)
    with _timed(seconds, "detect"):
        steps.detect(job, context, checkpoint, on_progress)
    with _timed(seconds, "evaluate"):
        on_progress("evaluating", 0, 1)
        accuracy = steps.evaluate(job, context)
    with _timed(seconds, "runtime"):
        on_progress("measuring runtime", 0, 1)
        runtime = steps.measure(job, context, checkpoint)
    return {
        "status": "complete",
        "accuracy": accuracy,
        "runtime": runtime,
        "checkpoint": checkpoint,
        "detections": f"trials/{job.fingerprint}/{DETECTIONS}",
    }


def _record(job: TrialJob, context: TrialContext, **outcome: Any) -> TrialRecord:
    return TrialRecord(
        fingerprint=job.fingerprint,
        study=context.study.name,
        method=job.method,
        paper=job.paper,
        config=job.config.to_mapping(),
        knobs=dict(job.knobs),
        seed=job.seed,
        data_fingerprint=context.data_fingerprint,
        revision=context.revision,
        **outcome,
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    begin = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] = round(time.perf_counter() - begin, 3)
