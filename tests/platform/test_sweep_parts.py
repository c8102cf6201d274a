"""The parts of a sweep without Ray: folders, fingerprints, order, one trial, reasons, bad input at the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, refused

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.interruption import reason_of
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies import Point, parse_study
from vodbench.sweeps import plan as planning
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.plan import ordered, trial_job
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.sweeps.trial import run_trial


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports", kind="inference", low=1)
    N_b: int = knob(1, "modules", low=1)


class Spec:
    paper = "A paper"


@pytest.fixture(autouse=True)
def _method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "method_spec", lambda name: Spec)


def study(**changes: Any) -> Any:
    return parse_study({"name": "parts", "title": "t", "methods": [{"method": "m"}], **changes}, "parts")


def context(folder: Path, **changes: Any) -> TrialContext:
    return TrialContext(study(**changes), DataSource(root="nowhere"), "data", str(folder), "r1")


def job(T: int, N_b: int = 1, seed: int = 0, **changes: Any) -> TrialJob:
    point = Point("m", Config(T=T, N_b=N_b), {"T": T})
    return trial_job(point, seed, context(Path("unused"), **changes))


class Steps:
    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.done: list[str] = []

    def _step(self, name: str) -> None:
        self.done.append(name)
        if name == self.failing:
            raise RuntimeError(f"no {name}\ntoday") from OSError(28, "No space left on device")

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        return f"{job.config.training_settings()} {job.seed}"

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        pass

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        self._step("train")
        return "weights"

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        self._step("detect")

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        self._step("evaluate")
        return Accuracy(protocol="ilsvrc", map=0.5, low=0.4, high=0.6)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        self._step("measure")
        return Runtime(
            median_ms=1, p95_ms=1, p99_ms=1, mean_ms=1, low_ms=1, high_ms=1, fps=1, stage_ms={}, decode_ms=1,
            gflops=None, peak_memory_mb=1, latency_frames=1, num_frames=1, device="cpu", threads=1, contended=False,
        )  # fmt: skip


def quiet(doing: str, done: int, total: int) -> None:
    pass


def test_a_trial_is_kept_whole_and_never_run_again(tmp_path: Path) -> None:
    steps = Steps()
    record = run_trial(job(3), context(tmp_path), steps, quiet)
    assert (record.status, record.checkpoint, record.paper, record.revision) == ("complete", "weights", "A paper", "r1")
    assert record.detections == f"trials/{record.fingerprint}/detections.parquet"
    assert set(record.seconds) == {"train", "detect", "evaluate", "runtime"}
    assert StudyFolder(str(tmp_path)).records() == {record.fingerprint: record}
    assert run_trial(job(3), context(tmp_path), steps, quiet) == record
    assert steps.done == ["train", "detect", "evaluate", "measure"]


@pytest.mark.parametrize("step", ["train", "detect", "evaluate", "measure"])
def test_a_step_that_fails_leaves_a_reason_and_a_traceback(tmp_path: Path, step: str) -> None:
    record = run_trial(job(3), context(tmp_path), Steps(step), quiet)
    assert record.status == "failed"
    assert record.reason == "OSError: [Errno 28] No space left on device"
    assert record.interrupted
    assert record.accuracy is None
    assert f"no {step}" in (tmp_path / "trials" / record.fingerprint / "error.txt").read_text()


def test_reasons_are_one_line() -> None:
    assert reason_of(ValueError("a\n  b")) == "ValueError: a b"
    assert reason_of(UserError("T = 0 is not accepted")) == "T = 0 is not accepted"
    wrapped = RuntimeError("task failed")
    wrapped.cause = KeyError("x")  # type: ignore[attr-defined]  # as Ray's task errors carry it
    assert reason_of(wrapped) == "KeyError: 'x'"
    assert len(reason_of(ValueError("x" * 9999))) == 300


def test_a_fingerprint_covers_everything_a_result_depends_on() -> None:
    base = job(3).fingerprint
    assert job(3).fingerprint == base
    assert job(3, workers={"evaluation": 2}, title="other", runtime={"snippets": 9}).fingerprint == base
    others = [
        job(4),
        job(3, N_b=2),
        job(3, seed=1),
        job(3, accuracy={"protocol": "voc"}),
        job(3, accuracy={"snippets": 5}),
        job(3, data={"val": "test"}),
        trial_job(
            Point("m", Config(T=3), {}), 0, TrialContext(study(), DataSource(root="nowhere"), "other data", "unused")
        ),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_shared_weights_come_together_or_first_when_several_run(tmp_path: Path) -> None:
    jobs = [job(T, N_b) for T in (1, 2) for N_b in (1, 2, 3)]
    alone = ordered(jobs, context(tmp_path), Steps())
    assert [(j.config.N_b, j.config.T) for j in alone] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]  # type: ignore[attr-defined]
    beside = ordered(jobs, context(tmp_path, workers={"concurrent_trials": 2}), Steps())
    assert [j.config.N_b for j in beside[:3]] == [1, 2, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "name is 'parts' there and 'other' here"),
        ({"preset": "tiny"}, "preset is 'paper' there and 'tiny' here"),
        ({"settings": {"iterations": 5}}, "settings.iterations is None there and 5 here"),
        ({"accuracy": {"protocol": "voc"}}, "accuracy.protocol is 'ilsvrc' there and 'voc' here"),
        ({"runtime": {"threads": 2}}, "runtime.threads is 1 there and 2 here"),
        ({"data": {"val": "test"}}, "data.val is 'val' there and 'test' here"),
    ],
)
def test_a_folder_belongs_to_one_study(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = StudyFolder(str(tmp_path))
    first = folder.claim(study(), "data")
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="another --out") as error:
        folder.claim(study(**changes), "data")
    assert said in str(error.value)
    with pytest.raises(UserError, match="data fingerprint is 'data' there and 'changed' here"):
        folder.claim(study(), "changed")
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    grown = study(methods=[{"method": "m", "knobs": {"T": [1]}}, {"method": "n"}], seeds=[0, 1])
    assert folder.claim(grown, "data") == first
    assert folder.study() == grown


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path / "new"))
    with folder.lock(), pytest.raises(UserError, match="another sweep is running"), StudyFolder(folder.url).lock():
        pass
    with folder.lock():
        pass


def test_a_folder_on_an_object_store() -> None:
    folder = StudyFolder("memory://sweep-parts")
    folder.claim(study(), "data")
    done = TrialRecord(
        fingerprint="f", study="parts", method="m", paper="", config={}, knobs={}, seed=0, status="failed", reason="r"
    )
    with folder.lock():
        folder.write_record(done)
    assert folder.records() == {"f": done}
    assert folder.local_path is None


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = StudyFolder(str(tmp_path))
    with pytest.raises(UserError, match=r"holds no study.yaml"):
        folder.study()
    folder.claim(study(), "data")
    (tmp_path / "trials" / "f").mkdir(parents=True)
    (tmp_path / "trials" / "f" / "trial.json").write_text("{")
    with pytest.raises(UserError, match=r"trials/f/trial.json is damaged"):
        folder.records()
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match=r"sweep.json' is damaged"):
        folder.claim(study(), "data")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demmo"], "did you mean 'demo'"),
        (["rdn-table4"], "give its root with --data"),
        (["demo", "--data", "{tmp}/nothing"], "does not exist"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.Tt=[1]"], "unknown knob 'Tt'"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.T=[0]"], "T = 0 is not accepted"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.T=[-3]"], "T = -3 is not accepted"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.r=[0]"], "r = 0 is not accepted"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.r=[100.5]"], "r = 100.5 is not accepted"),
        (["demo", "--data", "x", "--set", "methods.rdn.knobs.K=[0]"], "K = 0 is not accepted"),
        (["demo", "--data", "x", "--set", "settings.iteration=5"], "did you mean 'iterations'"),
        (["demo", "--data", "x", "--set", "search.sampler=tp"], "search.sampler = 'tp'"),
        (["demo", "--data", "x", "--trials", "0"], "search.trials = 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], said: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("sweep", *[argument.format(tmp=tmp_path) for argument in arguments], "--out", str(out))
    refused(outcome, said)
    assert len(outcome.err.splitlines()) == 1
    assert not out.exists()


@pytest.fixture
def video(tmp_path: Path) -> str:
    from vodbench_datasets.generated import GeneratorConfig, generate

    generate(str(tmp_path / "video"), GeneratorConfig(snippets=2, val_snippets=1, frames=2, size=64))
    return str(tmp_path / "video")


def test_an_unreachable_tracking_server_is_said_before_any_work(
    video: str, run: Run, tmp_path: Path, refusing_port: int
) -> None:
    out = tmp_path / "out"
    address = f"http://ann:hunter2@127.0.0.1:{refusing_port}"
    outcome = run("sweep", "demo", "--data", video, "--out", str(out), "--tracking", address)
    assert outcome.status == 1
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: tracking server 'http://ann:***@127.0.0.1:{refusing_port}' cannot be reached")
    assert not out.exists()


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize(("given", "said"), [("nowhere.pth", "is not a file"), (__file__, "is not a PyTorch file")])
def test_weights_that_no_trial_could_begin_from_are_said_before_any_work(
    video: str, at_hand: bool, given: str, said: str, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = ["--data", video] if at_hand else []
    outcome = run("sweep", "demo", *data, "--out", str(out), "--set", f"settings.weights={given}")
    refused(outcome, f"weights = '{given}' {said}")
    assert len(outcome.err.splitlines()) == 1
    assert not out.exists()


def test_weights_that_a_finished_training_began_from_may_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vodbench.sweeps.beginnings import missing_beginnings
    from vodbench.training.keeper import Folder

    of_detector = parse_study(
        {
            "name": "parts",
            "title": "t",
            "preset": "tiny",
            "settings": {"weights": "nowhere.pth"},
            "methods": [{"method": "faster-rcnn", "knobs": {"iterations": [5, 6]}}, {"method": "selsa"}],
        },
        "parts",
    )
    begun = missing_beginnings(of_detector, str(tmp_path), "data")
    assert [planned.stage.method for planned in begun] == ["faster-rcnn", "faster-rcnn"]
    gone = begun[0].fingerprint
    monkeypatch.setattr(Folder, "finished", property(lambda folder: folder.fingerprint == gone))
    assert [planned.fingerprint for planned in missing_beginnings(of_detector, str(tmp_path), "data")] == [
        begun[1].fingerprint
    ]


@pytest.mark.parametrize(
    ("preset", "settings", "warned"),
    [("paper", {}, True), ("paper", {"weights": "r101.pth"}, False), ("tiny", {}, False)],
)
def test_random_weights_under_frozen_batch_norm_are_warned_of_once(
    preset: str, settings: dict[str, Any], warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vodbench.cli.shared import warn_of_beginnings
    from vodbench.sweeps.beginnings import missing_beginnings

    entries = [{"method": "faster-rcnn"}, {"method": "rdn", "knobs": {"N_b": [1, 2]}}]
    planted = study(preset=preset, settings=settings, methods=entries)
    warn_of_beginnings(missing_beginnings(planted, str(tmp_path), "data"))
    said = capsys.readouterr().err
    assert said.count("frozen_batch_norm = True on random weights") == warned
    assert len(said.splitlines()) == warned


def test_sync_of_a_folder_that_is_no_study(run: Run, tmp_path: Path) -> None:
    refused(run("sync", str(tmp_path)), "holds no study.yaml")
