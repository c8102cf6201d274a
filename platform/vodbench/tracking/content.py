"""What MLflow shows of a trial: parameters, metrics and tags under names that need no explanation."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import Study

TRIAL_TAG = "vodbench.trial"  # the trial's fingerprint: makes its run findable, so that it is never made twice
SWEEP_TAG = "vodbench.sweep"
DELIVERED_TAG = "vodbench.delivered"  # fingerprint of the record; set last, so it says that everything is there

_UNSAFE = re.compile(r"[^\w\-. /]")


class Trial(Protocol):
    """What is to run, or its record."""

    @property
    def method(self) -> str: ...
    @property
    def knobs(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...


def run_name(trial: Trial) -> str:
    """``rdn T=2 K=12 r=20`` (and the seed where it is not 0)."""
    knobs = [f"{name}={format_value(value)}" for name, value in trial.knobs.items()]
    seed = [f"seed={trial.seed}"] if trial.seed else []
    return " ".join([trial.method, *knobs, *seed])


def format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def params(record: TrialRecord, study: Study) -> dict[str, str]:
    """Every setting of the trial, by its own name."""
    given = {
        "method": record.method,
        "preset": study.preset,
        "protocol": study.accuracy.protocol,
        "seed": record.seed,
        "train_split": study.data.train,
        "val_split": study.data.val,
        **record.config,
    }
    return {_safe(name): value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def metrics(record: TrialRecord) -> dict[str, float]:
    """Every finite figure of the trial, mAP first: MLflow's plots begin with the first."""
    found = _accuracy(record.accuracy) if record.accuracy else {}
    if record.runtime:
        found |= _runtime(record.runtime)
    found |= {f"seconds_{step}": value for step, value in record.seconds.items()}
    return {_safe(name): float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def tags(record: TrialRecord) -> dict[str, str]:
    found = {
        "method": record.method,
        "paper": record.paper,
        "seed": str(record.seed),
        "status": record.status,
        "checkpoint": record.checkpoint or "",
        "data": record.data_fingerprint,
        "git_revision": record.revision,
        "mlflow.source.name": "vodbench",
        "mlflow.source.git.commit": record.revision,
    }
    if record.reason:
        found["reason"] = record.reason
    if record.runtime:
        found |= {"device": record.runtime.device, "contended": "yes" if record.runtime.contended else "no"}
    return {name: value for name, value in found.items() if value}


def started_ms(record: TrialRecord) -> int:
    """When the trial began, in ms since 1970. Metrics carry it too: logged again, they are the same points."""
    return int(datetime.fromisoformat(record.started).timestamp() * 1000)


def ended_ms(record: TrialRecord) -> int:
    return started_ms(record) + int(1000 * sum(record.seconds.values()))


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    found: dict[str, Any] = {"map": accuracy.map, "map_low": accuracy.low, "map_high": accuracy.high}
    found |= {f"map_{motion}": value for motion, value in accuracy.motion.items()}
    found |= {f"map_deterioration/{name}": value for name, value in accuracy.deteriorations.items()}
    found |= {f"ap/{name}": value for name, value in accuracy.per_class.items()}
    found |= {f"stage_share/{stage}": share for stage, share in accuracy.stage_share.items()}
    return found


def _runtime(runtime: Runtime) -> dict[str, Any]:
    found: dict[str, Any] = {
        "runtime_ms": runtime.mean_ms,
        "runtime_low_ms": runtime.low_ms,
        "runtime_high_ms": runtime.high_ms,
        "runtime_p95_ms": runtime.p95_ms,
        "runtime_p99_ms": runtime.p99_ms,
        "runtime_median_ms": runtime.median_ms,
        "fps": runtime.fps,
        "decode_ms": runtime.decode_ms,
        "gflops": runtime.gflops,
        "peak_memory_mb": runtime.peak_memory_mb,
        "latency_frames": runtime.latency_frames,
    }
    return found | {f"stage_ms/{stage}": value for stage, value in runtime.stage_ms.items()}


def _safe(name: str) -> str:
    """MLflow accepts letters, digits, underscores, dashes, periods, spaces and slashes."""
    return _UNSAFE.sub("_", name)
