"""A store that goes away for longer than its clients are patient: what a command says, and that it continues."""

from __future__ import annotations

import errno
import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from command_line import Run
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from rich.console import Console

from vodbench.checkpoints import resolve_run
from vodbench.data_source import DataSource
from vodbench.errors import OutOfReachError, UserError
from vodbench.interruption import from_outside
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.spec import MethodSpec
from vodbench.storage import exists, read_bytes, texts_if_there, write_bytes
from vodbench.streaming.parts import finished
from vodbench.studies import parse_study, space
from vodbench.sweeps import journal, running, tuning
from vodbench.sweeps import plan as planning
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.running import plan_sweep, run_sweep
from vodbench.sweeps.search import jobs_of
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.sweeps.trial import run_trial
from vodbench.tracking import recorder
from vodbench.tracking.delivery import Delivery
from vodbench.tracking.server import connect
from vodbench.training.run_folder import check_run_folder
from vodbench_datasets.clips.pipeline import _FrameJob, _read_run
from vodbench_datasets.clips.runs import frame_runs
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards.destination import claim
from vodbench_datasets.shards.layout import read_index
from vodbench_datasets.shards.write import write_shards

ERRORS: Sequence[Exception] = [
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    FSTimeoutError(),
    OSError(errno.EBUSY, "Please reduce your request rate."),
    OSError(errno.EREMOTEIO, "Internal Server Error"),
    aiohttp.ServerDisconnectedError(),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://gateway"),
]
of_each_kind = pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'errno', None)}")


class Store(DirFileSystem):  # type: ignore[misc]
    """``away://NAME``: files of a local folder, until ``left`` operations were made; from then on all of them fail."""

    protocol = "away"
    cachable = False
    folder = ""
    left = sys.maxsize
    error: Exception = ERRORS[0]
    asked = 0

    def __init__(self, **_: Any) -> None:
        super().__init__(Store.folder, fsspec.filesystem("file"))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("away://").rstrip("/")

    def _join(self, path: Any) -> Any:
        Store.asked += 1
        if Store.asked > Store.left:
            raise Store.error
        return super()._join(path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many operations the store has left, and what it then says."""
    monkeypatch.setitem(_registry, "away", Store)
    monkeypatch.setattr(Store, "folder", str(tmp_path))

    def leave(left: int = sys.maxsize, error: Exception = ERRORS[0]) -> None:
        for name, value in {"left": left, "error": error, "asked": 0}.items():
            monkeypatch.setattr(Store, name, value)

    leave()
    return leave


@pytest.mark.parametrize(
    "words",
    [
        "front away://run",
        "report away://run",
        "recommend --budget-ms 30 away://run",
        "sync away://run",
        "data describe away://data",
        "data verify away://shards",
        "train faster-rcnn --data away://data --out run",
        "evaluate --run away://run --data away://data",
        "sweep demo --data away://data --out away://run",
    ],
)
@of_each_kind
def test_a_command_names_what_is_out_of_reach_on_one_line(
    words: str, error: Exception, store: Callable[..., None], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store(0, error)
    status, _, text = run(*words.split())
    assert status == 1
    assert "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert line.startswith("error: 'away://")
    assert f"cannot be reached ({type(error).__name__}: " in line
    assert line.endswith("Nothing that finished is lost: when this has passed, the same command continues")
    assert not list(tmp_path.iterdir()), "nothing was begun"


@of_each_kind
def test_what_is_out_of_reach_stays_so_in_other_processes(error: Exception, store: Callable[..., None]) -> None:
    """Workers send their errors without what they came from."""
    store(0, error)
    for ask in (exists, read_bytes, lambda url: write_bytes(url, b"")):
        with pytest.raises(OutOfReachError) as caught:
            ask("away://file")
        sent = pickle.loads(pickle.dumps(caught.value))
        assert sent.__cause__ is None
        assert from_outside(sent)


def test_what_is_not_there_is_not_out_of_reach(store: Callable[..., None]) -> None:
    assert not exists("away://file")
    with pytest.raises(UserError, match="does not exist") as caught:
        read_bytes("away://file")
    assert not isinstance(caught.value, OutOfReachError)


class Bucket(Store):
    """As s3fs says of a bucket whose server is away: it does not exist."""

    protocol = ("s3", "s3a")

    def exists(self, path: str, **_: Any) -> bool:
        try:
            return bool(super().exists(path))
        except OSError:
            return False


def test_a_bucket_whose_server_is_away_is_not_said_to_be_missing(
    store: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(_registry, "away", Bucket)
    (tmp_path / "bucket").mkdir()
    assert exists("away://bucket")
    assert not exists("away://other")
    store(0)
    with pytest.raises(OutOfReachError, match="'away://bucket' cannot be reached"):
        exists("away://bucket")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    generate(str(folder / "tree"), GeneratorConfig(snippets=1, val_snippets=1, frames=2, size=64, classes=2))
    write_shards(DataSource(root=str(folder / "tree")).open(), str(folder / "shards"))
    return folder / "shards"


@of_each_kind
def test_a_shard_out_of_reach_is_not_a_damaged_one(
    error: Exception, store: Callable[..., None], tmp_path: Path, shards: Path
) -> None:
    shutil.copytree(shards, tmp_path / "shards")
    dataset = DataSource(root="away://shards").open()
    (info, *_) = dataset.snippets("val")
    runs = frame_runs([info])
    store(0, error)
    for read in (lambda: dataset.read("val", info.id), lambda: _read_run(_FrameJob(dataset, "val"), runs[0])):
        with pytest.raises(OutOfReachError, match=r"'away://shards/.*' cannot be reached"):
            read()


READERS: Sequence[tuple[str, Callable[[str], object]]] = [
    ("trial.json", resolve_run),
    ("run.json", resolve_run),
    ("run.json", lambda folder: check_run_folder(folder, {})),
    ("index.json", read_index),
    ("index.json", lambda folder: claim(folder, "job")),
    ("sweep.json", lambda folder: StudyFolder(folder).identity()),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_what_is_out_of_reach_is_not_said_to_be_damaged(
    name: str, read: Callable[[str], object], store: Callable[..., None], tmp_path: Path
) -> None:
    """Such a file is advised to be deleted. The outage begins before each operation of reading it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_text("{")
    with pytest.raises(UserError, match=name):
        read("away://folder")
    for left in range(Store.asked):
        store(left)
        with pytest.raises(OutOfReachError):
            read("away://folder")


def test_detections_out_of_reach_are_not_made_again(store: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"damaged")
    assert finished("away://part", {}, []) is None
    store(1)
    with pytest.raises(OutOfReachError):
        finished("away://part", {}, [])


# ---- a sweep, from the outage's every possible beginning


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports", kind="inference", low=1)


class Steps:
    """Counts trials; trains on the store."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        return "weights"

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        self.train(jobs[0], context, on_progress)

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        write_bytes(f"{context.folder}/checkpoints/weights/model.pt", b"")
        return "weights"

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        read_bytes(f"{context.folder}/checkpoints/{checkpoint}/model.pt")

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        value = 1 - 1 / job.config.T  # type: ignore[attr-defined]
        return Accuracy(protocol="ilsvrc", map=value, low=value, high=value)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        ms = 10.0 * job.config.T  # type: ignore[attr-defined]
        return Runtime(
            median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms, stage_ms={},
            decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=1, num_frames=9, device="cpu",
            threads=1, contended=False,
        )  # fmt: skip


class Source:
    """Data of which nothing is read but its name."""

    fingerprint = "data"

    def __init__(self, root: str, **_: Any) -> None:
        self.root = root

    def open(self) -> Source:
        exists(self.root)
        return self

    def snippets(self, split: str) -> list[str]:
        return []


class Recorder:
    """MLflow is another store."""

    def __init__(self, *_: Any) -> None:
        pass

    def deliver(self, records: object, steps: object) -> None:
        pass

    def finish(self, records: object, *, complete: bool) -> bool:
        return True

    def stop(self) -> None:
        pass


def spec_of(name: str) -> MethodSpec:
    unused: Any = None
    return MethodSpec(name=name, summary="", paper="A paper", config=Config, presets={"paper": {}}, build=unused,
                      stages=unused, latency_frames=unused)  # fmt: skip


@dataclass
class Ended:
    """What Tune tells of a trial."""

    trial_id: str
    config: dict[str, Any]


def tune_here(context: TrialContext, steps: Any, search: Any, num_trials: int, events: Any) -> None:
    """Ray Tune's part, in this process; a trial that fails is tried once."""
    for number in range(num_trials):
        suggested = search.suggest(str(number))
        for job in jobs_of(suggested):
            run_trial(job, context, steps, lambda *_: None)
            steps.finished.append(job.fingerprint)
        events.on_trial_complete(0, [], Ended(str(number), suggested))
        search.on_trial_complete(str(number))


@pytest.fixture
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "method_spec", spec_of)
    monkeypatch.setattr(planning, "method_spec", spec_of)
    monkeypatch.setattr(running, "DataSource", Source)
    monkeypatch.setattr(running, "Recorder", Recorder)
    monkeypatch.setattr(journal, "SECONDS", 0.0)  # after each trial: the store is asked equally often every time
    monkeypatch.setattr(running, "start_ray", lambda address: None)
    monkeypatch.setattr(tuning, "run_tune", tune_here)


def sweep(
    folder: str, steps: Steps, tracking: str = "sqlite:////unused", console: Console | None = None
) -> list[TrialRecord]:
    values = {
        "name": "s",
        "title": "t",
        "data": {"root": "away://data"},
        "methods": [{"method": "m", "knobs": {"T": [1, 2, 4]}}],
    }
    plan = plan_sweep(parse_study(values, "s"), folder, tracking_uri=tracking, steps=steps)  # type: ignore[arg-type]
    return run_sweep(plan, console or Console(quiet=True)).records


def test_files_that_are_read_side_by_side_are_there_or_not_or_out_of_reach(
    store: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "b").mkdir(parents=True)
    (tmp_path / "run" / "b" / "file").write_text("x")
    (tmp_path / "run" / "c").write_text("a file where a folder was looked for")
    assert texts_if_there("away://run", ["a/file", "b/file", "c/file"]) == [None, "x", None]
    assert texts_if_there("away://nowhere", ["a/file"]) == [None]
    assert texts_if_there("away://run", []) == []

    def one_of_them(folder: LocalFileSystem, path: str, *_: Any) -> bytes:
        if path.endswith("b/file"):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return b"x"

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "cat_file", one_of_them)
        with pytest.raises(OutOfReachError, match=r"'away://run' cannot be reached"):
            texts_if_there("away://run", ["a/file", "b/file", "c/file"])
    (tmp_path / "run" / "b" / "file").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"'away://run/b/file' is not text in UTF-8"):
        texts_if_there("away://run", ["a/file", "b/file"])


@pytest.mark.usefixtures("_planted")
def test_an_outage_that_begins_anywhere_ends_a_sweep_that_then_continues(
    store: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "connect", lambda uri: None)
    monkeypatch.setattr(running, "draw_front", lambda folder, records: exists(f"{folder}/front.html"))
    expected = [r.accuracy for r in sweep("away://whole", Steps())]
    operations = Store.asked
    assert operations > 30, "the sweep is in the store"
    for left in range(operations):
        folder, before, after = f"away://broken-{left}", Steps(), Steps()
        store(left, ERRORS[left % len(ERRORS)])
        with pytest.raises((OutOfReachError, *map(type, ERRORS))):
            sweep(folder, before)
        there = tmp_path / f"broken-{left}" / "trials"
        kept = {path.parent.name: json.loads(path.read_text()) for path in there.glob("*/trial.json")}
        store()
        assert [r.accuracy for r in sweep(folder, after)] == expected
        done = {name for name, record in kept.items() if record["status"] == "complete"}
        assert not done & set(after.finished), f"after {left} operations: a finished trial ran again"
        assert len(after.finished) == 3 - len(done)


class Connected(recorder.Recorder):
    """Has its runs in MLflow before the first trial begins."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._thread.submit(lambda: None).result()


@pytest.fixture
def tracking(_planted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An MLflow that is there while the store is not."""
    monkeypatch.setattr(running, "Recorder", Connected)
    return f"sqlite:///{tmp_path}/mlflow.db"


def run_status(tracking: str) -> str:
    """Of the sweep's run."""
    client = connect(tracking)
    (experiment,) = (e for e in client.search_experiments() if e.name == "s")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`vodbench.role` = 'sweep'")
    return str(run.info.status)


@pytest.mark.parametrize("when", ["in a trial", "at the end"])
def test_an_outage_of_the_store_ends_the_run_of_the_sweep(
    when: str, store: Callable[..., None], tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Outage(Steps):
        def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
            if when == "in a trial" and self.finished:
                store(0)
            return super().evaluate(job, context)

    steps = Outage()
    with monkeypatch.context() as patch:
        if when == "at the end":
            patch.setattr(running, "draw_front", lambda folder, records: store(0))
        with pytest.raises(OutOfReachError, match="'away://run"):
            sweep("away://run", steps, tracking)
    assert steps.finished
    assert run_status(tracking) == "KILLED"
    store()
    sweep("away://run", Steps(), tracking)
    assert run_status(tracking) == "FINISHED"


def test_with_mlflow_away_too_the_store_is_what_ends_the_sweep(
    store: Callable[..., None], tracking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(delivery: Delivery) -> None:
        raise ConnectionError("refused")

    class Outage(Steps):
        def train(self, *_: Any) -> str:
            store(0)
            return super().train(*_)

    monkeypatch.setattr(Delivery, "stop", away)
    console = Console(file=io.StringIO(), width=1000)
    with pytest.raises(OutOfReachError, match="'away://run"):
        sweep("away://run", Outage(), tracking, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (said,) = (line for line in lines if "MLflow" in line)
    assert said == "warning: MLflow does not take results: refused; results stay on disk"
