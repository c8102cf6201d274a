"""What the platform adds to a trial that does nothing, beside the same trial in bare Ray Tune."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from vodbench.data_source import DataSource
from vodbench.records import Accuracy, Runtime
from vodbench.studies import parse_study
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob


class EmptySteps:
    """``Steps`` that do nothing and say the same of every trial."""

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        return "none"

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        pass

    def may_stop(self, job: TrialJob, context: TrialContext) -> bool:
        return False

    def train_to(self, jobs: Sequence[TrialJob], share: float, context: TrialContext, on_progress: OnProgress) -> None:
        pass

    def score(self, job: TrialJob, share: float, context: TrialContext, on_progress: OnProgress) -> float:
        return 0.5

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        return "none"

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        pass

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        return Accuracy(protocol="ilsvrc", map=0.5, low=0.4, high=0.6)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        return Runtime(
            median_ms=1.0,
            p95_ms=1.0,
            p99_ms=1.0,
            mean_ms=1.0,
            low_ms=1.0,
            high_ms=1.0,
            decode_ms=1.0,
            fps=1000.0,
            stage_ms={},
            gflops=None,
            peak_memory_mb=1.0,
            latency_frames=0,
            num_frames=1,
            device="none",
            threads=1,
            contended=False,
        )


def platform_seconds(num_trials: int, folder: Path) -> float:
    """Seconds of a sweep of so many empty trials, one at a time: records, MLflow and front included."""
    from vodbench.sweeps.running import SweepPlan, run_sweep
    from vodbench.tracking.server import connect, default_uri

    knobs = {"max_detections": list(range(1, num_trials + 1))}
    study = parse_study(
        {"name": "empty", "title": "Trials that do nothing", "methods": [{"method": "faster-rcnn", "knobs": knobs}]},
        "bench sweep",
    )
    folder.mkdir(parents=True)
    tracking = default_uri(str(folder))
    connect(tracking)  # makes the database, which takes seconds and is done once a folder
    context = TrialContext(study, DataSource(root="none"), "none", str(folder))
    started = time.perf_counter()
    run_sweep(SweepPlan(context, tracking, EmptySteps()), Console(quiet=True))
    return time.perf_counter() - started


def tune_seconds(num_trials: int, folder: Path) -> float:
    """Seconds of Ray Tune over as many trials that report a number: one at a time, in one process, as ours run."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables cannot be switched off
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        tune.report({"map": 0.5, "runtime_ms": 1.0})

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 0.01}),
        param_space={"max_detections": tune.grid_search(list(range(1, num_trials + 1)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), name="bare", verbose=0),
    )
    with _as_it_comes():
        started = time.perf_counter()
        tuner.fit()
        return time.perf_counter() - started


@contextmanager
def _as_it_comes() -> Iterator[None]:
    """Without what our sweeps have told Tune in this process."""
    ours = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TUNE_")}
    try:
        yield
    finally:
        os.environ |= ours
