"""Sweeps with planted steps under real Ray Tune, Optuna and MLflow: what runs, what is kept, what is recorded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from vodbench.errors import OutOfReachError, UserError
from vodbench.front.hypervolume import write_history
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.spec import MethodSpec
from vodbench.studies import parse_study, space
from vodbench.sweeps import plan as planning
from vodbench.sweeps import running
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.running import SweepResult, plan_sweep, run_sweep
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.tracking.server import connect, default_uri

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports", kind="inference", low=1)
    N_b: int = knob(1, "modules", low=1)


class PlantedSteps:
    """mAP and runtime are functions of the knobs; every call leaves a line in ``calls``."""

    def __init__(self, calls: Path) -> None:
        self.calls = calls

    def note(self, *what: object) -> None:
        with self.calls.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        return f"{job.method}-{job.config.training_settings()}-{job.seed}"

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        pass

    def may_stop(self, job: TrialJob, context: TrialContext) -> bool:
        return True

    def train_to(self, jobs: Sequence[TrialJob], share: float, context: TrialContext, on_progress: OnProgress) -> None:
        self.note("train_to", share, [job.config.N_b for job in jobs])

    def score(self, job: TrialJob, share: float, context: TrialContext, on_progress: OnProgress) -> float:
        return float(job.config.N_b) / 10

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        on_progress("training", 1, 2)
        self.note("train", job.method, job.config.to_mapping(), job.seed)
        return self.training_fingerprint(job, context)

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        if job.config.T == 13:
            raise ValueError("thirteen\nis not lucky")

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        value = float("nan") if job.config.T == 12 else 1 - 1 / (job.config.T + job.config.N_b) + 0.001 * job.seed
        return Accuracy(protocol="ilsvrc", map=value, low=value - 0.1, high=value + 0.1)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        ms = 10.0 * job.config.T
        return Runtime(
            median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms, stage_ms={},
            decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=job.config.T, num_frames=9, device="cpu",
            threads=1, contended=False,
        )  # fmt: skip


def spec_of(name: str) -> MethodSpec:
    unused: Any = None
    return MethodSpec(name=name, summary="", paper="A paper", config=Config, presets={"paper": {}}, build=unused,
                      stages=unused, latency_frames=unused)  # fmt: skip


@dataclass(frozen=True)
class PlantedSource:
    root: str
    kind: str = "auto"
    options: Any = None

    fingerprint = "data"

    def open(self) -> PlantedSource:
        return self

    def snippets(self, split: str) -> list[str]:
        return []


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One Ray for the module; this module's classes travel to its workers by value."""
    import ray

    from vodbench.cluster import start_ray, stop_ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    start_ray(num_cpus=2)
    yield
    stop_ray()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(default_uri(str(folder)))
    return folder / "mlflow.db"


@pytest.fixture
def out(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    return folder


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch.setattr)


def plant(setattr: Any) -> None:
    setattr(space, "method_spec", spec_of)
    setattr(planning, "method_spec", spec_of)
    setattr(running, "DataSource", PlantedSource)


def sweep(
    out: Path,
    steps: PlantedSteps | None = None,
    *,
    retry_failed: bool = False,
    retry_stopped: bool = False,
    **study: Any,
) -> SweepResult:
    values = {
        "name": "planted",
        "title": "t",
        "data": {"root": "nowhere"},
        "methods": [{"method": "m", "knobs": {"N_b": [1, 2], "T": [1, 4]}}],
        **study,
    }
    plan = plan_sweep(parse_study(values, "planted"), str(out), steps=steps or PlantedSteps(out.parent / "calls"))
    return run_sweep(plan, Console(quiet=True), retry_failed=retry_failed, retry_stopped=retry_stopped)


def calls(out: Path) -> list[list[Any]]:
    file = out.parent / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def tracked_runs(out: Path, role: str = "trial") -> list[Any]:
    client = connect(default_uri(str(out)))
    experiment = client.get_experiment_by_name("planted")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`vodbench.role` = '{role}'"))


def methods(T: list[int], N_b: tuple[int, ...] = (1,)) -> list[dict[str, Any]]:
    return [{"method": "m", "knobs": {"N_b": list(N_b), "T": T}}]


def test_a_grid_runs_once_and_continues_with_what_is_new(out: Path) -> None:
    first = sweep(out)
    assert first.ran == 4
    assert first.tracked
    # More of both gains is impossible here: higher T is more accurate and slower, higher N_b is free.
    on_front = {(r.config["N_b"], r.config["T"]) for r, mark in zip(first.records, first.front, strict=True) if mark}
    assert on_front == {(2, 1), (2, 4)}
    order = [(c[2]["N_b"], c[2]["T"]) for c in calls(out)]
    assert order == [(1, 1), (1, 4), (2, 1), (2, 4)]

    again = sweep(out)
    assert (again.ran, len(calls(out))) == (0, 4)
    assert again.records == first.records

    grown = sweep(out, methods=methods([1, 4, 6], (1, 2)), seeds=[0, 3])
    assert grown.ran == 8
    runs = tracked_runs(out)
    assert len(runs) == 12
    assert len({run.data.tags["vodbench.trial"] for run in runs}) == 12
    assert len(tracked_runs(out, "sweep")) == 1
    assert not (out / ".tune").exists()


def test_what_mlflow_says_of_a_trial(out: Path) -> None:
    result = sweep(out, methods=methods([4]))
    (run,) = tracked_runs(out)
    (parent,) = tracked_runs(out, "sweep")
    assert run.info.status == "FINISHED"
    assert (run.data.params["T"], run.data.params["N_b"], run.data.params["method"]) == ("4", "1", "m")
    assert run.data.metrics["map"] == result.records[0].accuracy.map  # type: ignore[union-attr]
    assert run.data.metrics["runtime_ms"] == 40.0
    assert (run.data.tags["front"], run.data.tags["paper"]) == ("yes", "A paper")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.info.run_name == "m N_b=1 T=4"
    assert parent.data.metrics["trials_complete"] == 1
    (step,) = write_history(str(out), result.records)
    assert parent.data.metrics["hypervolume"] == step.hypervolume > 0


def test_a_failed_trial_is_recorded_and_does_not_stop_the_others(out: Path) -> None:
    result = sweep(out, methods=methods([1, 13, 4]))
    status = {r.config["T"]: (r.status, r.reason) for r in result.records}
    assert status[13] == ("failed", "ValueError: thirteen is not lucky")
    assert status[1] == status[4] == ("complete", None)
    failed = next(r for r in result.records if r.status == "failed")
    assert "Traceback" in (out / "trials" / failed.fingerprint / "error.txt").read_text()
    assert {run.data.params["T"]: run.info.status for run in tracked_runs(out)}["13"] == "FAILED"
    assert sweep(out, methods=methods([1, 13, 4])).ran == 0
    before = len(calls(out))
    sweep(out, methods=methods([1, 13, 4]), retry_failed=True)
    assert len(calls(out)) == before + 1
    assert len(tracked_runs(out)) == 3


def test_hopeless_trainings_of_a_grid_are_stopped_and_stay_so_until_asked(out: Path) -> None:
    space = methods([1, 4], (1, 2, 3))
    search = {"early_stopping": {"rungs": [0.5]}}
    first = sweep(out, methods=space, search=search)
    assert {(r.config["N_b"], r.status) for r in first.records} == {(1, "stopped"), (2, "stopped"), (3, "complete")}
    # All climb in one go; what goes on is then trained by its two trials.
    assert [c[:2] for c in calls(out)] == [["train_to", 0.5], ["train", "m"], ["train", "m"]]
    assert {run.data.params["N_b"]: run.info.status for run in tracked_runs(out)} == {
        "1": "KILLED",
        "2": "KILLED",
        "3": "FINISHED",
    }
    assert sweep(out, methods=space, search=search).ran == 0
    asked = sweep(out, methods=space, search=search, retry_stopped=True)
    assert [r.status for r in asked.records] == ["complete"] * 6
    assert len(calls(out)) == 3 + 4


def test_hopeless_trainings_of_a_search_are_stopped_as_they_come(out: Path) -> None:
    space = [{"method": "m", "knobs": {"N_b": [1, 2, 3, 4, 5, 6]}}]
    search = {"sampler": "tpe", "trials": 6, "early_stopping": {"rungs": [0.5], "reduction": 2}}
    first = sweep(out, methods=space, search=search)
    order = [c[2][0] for c in calls(out) if c[0] == "train_to"]
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    # The first has nobody to be compared with; of those so far, each must be in the better half, rounded up.
    going_on = {n for i, n in enumerate(order) if sum(other > n for other in order[:i]) < (i + 2) // 2}
    assert {r.config["N_b"] for r in first.records if r.status == "complete"} == going_on
    assert [c[2]["N_b"] for c in calls(out) if c[0] == "train"] == [n for n in order if n in going_on]
    assert {r.status for r in first.records} == {"complete", "stopped"}
    begun = len(calls(out))
    assert sweep(out, methods=space, search=search).ran == 0
    assert len(calls(out)) == begun


@dataclass
class Deadly(PlantedSteps):
    """The process of one trial dies, as under the kernel's out-of-memory killer."""

    calls: Path

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        if job.config.T == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_trial_whose_process_dies_is_tried_again_then_recorded_and_tried_by_the_next_sweep(out: Path) -> None:
    result = sweep(out, Deadly(out.parent / "calls"), methods=methods([1, 4, 6]))
    reasons = {r.config["T"]: r.reason for r in result.records}
    assert reasons[1] is None
    assert reasons[6] is None
    assert "process died 3 times" in str(reasons[4])
    again = sweep(out, methods=methods([1, 4, 6]))
    assert again.ran == 1
    assert [r.status for r in again.records] == ["complete"] * 3
    runs = tracked_runs(out)
    assert len(runs) == 3
    assert [(run.info.status, run.data.tags.get("reason")) for run in runs] == [("FINISHED", None)] * 3


def test_a_store_that_stays_away_ends_the_sweep_with_what_it_said(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune makes a text of what its callbacks raise."""

    def away(self: StudyFolder, fingerprint: str) -> TrialRecord | None:
        raise OutOfReachError(f"'{fingerprint}' cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(StudyFolder, "record", away)  # in this process: trials see the store
        with pytest.raises(OutOfReachError, match="cannot be reached"):
            sweep(out)
    begun = len(calls(out))
    assert 1 <= begun < 4
    sweep(out)
    assert len(calls(out)) == 4, "what was finished is not repeated"


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "gp"])
def test_search_continues_from_its_records(out: Path, sampler: str) -> None:
    space = [{"method": "m", "knobs": {"N_b": [1, 2, 3], "T": {"low": 1, "high": 11}}}, {"method": "other"}]
    first = sweep(out, methods=space, search={"sampler": sampler, "trials": 5, "seed": 1})
    assert first.ran == 5
    more = sweep(out, methods=space, search={"sampler": sampler, "trials": 8, "seed": 1})
    assert more.ran == 3
    assert len({r.fingerprint for r in more.records}) == 8
    assert len(tracked_runs(out)) == 8


def test_search_survives_failures_and_ends_when_the_space_does(out: Path) -> None:
    search = {"sampler": "tpe", "trials": 50}
    result = sweep(out, methods=methods([1, 4, 12, 13]), search=search, seeds=[0, 5])
    assert len(result.records) == 8
    assert {(r.config["T"], r.seed) for r in result.records} == {(t, s) for t in (1, 4, 12, 13) for s in (0, 5)}


def test_trials_side_by_side_train_each_weights_first(out: Path) -> None:
    result = sweep(out, methods=methods([1, 2, 3], (1, 2)), workers={"concurrent_trials": 2})
    assert result.ran == 6
    assert {c[2]["N_b"] for c in calls(out)[:2]} == {1, 2}


def test_a_folder_of_another_study_is_refused_untouched(out: Path) -> None:
    sweep(out, methods=methods([1]))
    before = {path: path.read_bytes() for path in out.rglob("*.yaml")}
    with pytest.raises(UserError, match=r"another study: accuracy.bootstrap is 1000 there and 10 here; give another"):
        sweep(out, methods=methods([1]), accuracy={"bootstrap": 10})
    assert {path: path.read_bytes() for path in out.rglob("*.yaml")} == before


DRIVER = """
import signal, sys, time
# As in a terminal: a test runner in the background hands down a Ctrl-C that is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {folder!r})
import test_sweep_runs as t
import ray
from pathlib import Path
ray.cloudpickle.register_pickle_by_value(t)
t.plant(setattr)

class Endless(t.PlantedSteps):
    def evaluate(self, job, context):
        if job.config.T > 3:
            time.sleep(600)  # until it is interrupted
        return super().evaluate(job, context)

t.sweep(Path({out!r}), Endless(Path({out!r}).parent / "calls"), methods=t.methods(list(range(1, 9))))
"""


@pytest.mark.parametrize("interrupt", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_loses_nothing_and_repeats_nothing(
    out: Path, interrupt: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    script = DRIVER.format(folder=str(Path(__file__).parent), out=str(out))
    driver = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    while len(calls(out)) < 4 and driver.poll() is None:
        time.sleep(0.05)
    orphans = psutil.Process(driver.pid).children(recursive=True)
    trial = [process for process in orphans if runs_trials(process)]
    assert trial
    driver.send_signal(interrupt)
    assert driver.wait() != 0
    psutil.wait_procs(trial)  # only who could still write; Ray's agents take a minute to notice
    done = {path.parent.name for path in out.glob("trials/*/trial.json")}
    assert len(done) == 3
    if interrupt != signal.SIGKILL:
        assert tracked_runs(out, "sweep")[0].info.status == "KILLED"
        said = capfd.readouterr().err
        assert "KeyboardInterrupt" in said
        assert "SIGTERM received" not in said  # by Ray's C++
    begun = len(calls(out))
    result = sweep(out, methods=methods(list(range(1, 9))))
    assert result.ran == 8 - len(done)
    assert len(result.records) == 8
    assert len(calls(out)) == begun + result.ran
    assert tracked_runs(out, "sweep")[0].info.status == "FINISHED"
    runs = tracked_runs(out)
    assert len(runs) == len({run.data.tags["vodbench.trial"] for run in runs}) == 8
    assert all(run.info.status == "FINISHED" for run in runs)
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def runs_trials(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("ray::ImplicitFunc" in word for word in process.cmdline())
    return False
