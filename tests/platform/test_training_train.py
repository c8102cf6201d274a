"""``train``: what is trained, what is reused, what is refused. Ray is left out here; see test_training_runs.py."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from vodbench.checkpoints import checkpoint_url, load_checkpoint, resolve_run
from vodbench.cli import app
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench.storage import exists
from vodbench.training import TrainingError, driver, plan_stages, train, train_all
from vodbench.training.driver import _Relay
from vodbench.training.keeper import Folder
from vodbench.training.peers import Peers
from vodbench.training.run_folder import check_run_folder, write_run_file
from vodbench.training.worker import TrainingJob, train_stages

SOURCE = DataSource(root="/nowhere", kind="learner")


class Trained:
    """Stands in for Ray Train: runs the same stages in this process, and remembers which."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.delay = 0.0

    def __call__(self, job: TrainingJob, *_: object) -> None:
        time.sleep(self.delay)
        train_stages(job, Peers())
        self.stages += [p.stage.name for p in job.planned]


@pytest.fixture
def trained(learner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Trained:
    trained = Trained()
    monkeypatch.setattr(driver, "start_ray", lambda: None)
    monkeypatch.setattr(driver, "scaling_config", lambda *_: None)
    monkeypatch.setattr(driver, "_fit", trained)
    return trained


def _train(learner: ModuleType, store: Path, method: str = "learner-full", **knobs: Any) -> str:
    return train(method, learner.LearnerConfig(**knobs), SOURCE, store=str(store), seed=1, revision="r1")


def test_several_trainings_share_a_run_and_their_common_stages(
    learner: ModuleType, trained: Trained, tmp_path: Path
) -> None:
    pairs = [(name, learner.LearnerConfig()) for name in ("learner-full", "learner-base", "learner-full")]
    names = train_all(pairs, SOURCE, store=str(tmp_path), seed=1)
    assert names[0] == names[2] != names[1]
    assert all((tmp_path / "checkpoints" / name / "model.pt").exists() for name in names)
    assert trained.stages == ["base", "full"]


def test_the_result_says_where_it_came_from(learner: ModuleType, trained: Trained, tmp_path: Path) -> None:
    name = _train(learner, tmp_path)
    checkpoint = load_checkpoint(checkpoint_url(str(tmp_path), name), "learner-full")
    assert checkpoint.fingerprint == name
    assert (checkpoint.stage, checkpoint.seed, checkpoint.revision) == ("full", 1, "r1")
    assert (checkpoint.data_fingerprint, checkpoint.classes) == ("learner-data", learner.LearnerData.classes)
    record = json.loads((tmp_path / "checkpoints" / name / "training.json").read_text())
    assert record["history"][-1]["iteration"] == 20
    assert not list(tmp_path.rglob("partial.pt"))


def test_a_later_stage_starts_from_the_weights_of_the_one_before(
    learner: ModuleType, trained: Trained, tmp_path: Path
) -> None:
    """The convolution is frozen in the second stage, so it must still be that of the first."""
    config = learner.LearnerConfig()
    base, full = plan_stages("learner-full", config, "learner-data", 1)
    _train(learner, tmp_path)
    first, second = (load_checkpoint(checkpoint_url(str(tmp_path), p.fingerprint)).weights for p in (base, full))
    assert torch.equal(first["body.0.weight"], second["body.0.weight"])
    assert not torch.equal(first["head.weight"], second["head.weight"])


def test_groups_that_the_data_cannot_give_are_refused_before_the_first_stage(
    learner: ModuleType, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage asks for groups; the data set says no when its clips are asked for, not when they are read."""
    asked: list[tuple[int, int]] = []

    def clips(self: Any, clips: ClipSpec, *, start: int, stop: int, **_: Any) -> Any:
        asked.append((start, stop))
        raise UserError("groups cannot be drawn")

    monkeypatch.setattr(learner.LearnerData, "training_clips", clips)
    plain = learner.ClipSpec
    monkeypatch.setattr(
        learner, "ClipSpec", lambda **given: plain(**given, categories=2, videos=2) if given else plain()
    )
    with pytest.raises(UserError, match="groups cannot be drawn"):
        _train(learner, tmp_path)
    assert asked == [(0, 0)]
    assert trained.stages == []


def test_what_is_in_the_store_is_not_trained_again(learner: ModuleType, trained: Trained, tmp_path: Path) -> None:
    _train(learner, tmp_path, "learner-base")
    _train(learner, tmp_path, T=8)  # an inference knob; shares the base stage
    _train(learner, tmp_path, T=4)
    assert trained.stages == ["base", "full"]


def test_earlier_stages_are_not_needed_once_the_last_is_there(
    learner: ModuleType, trained: Trained, tmp_path: Path
) -> None:
    base, _ = plan_stages("learner-full", learner.LearnerConfig(), "learner-data", 1)
    _train(learner, tmp_path)
    (tmp_path / "checkpoints" / base.fingerprint / "model.pt").unlink()
    _train(learner, tmp_path)
    assert trained.stages == ["base", "full"]


def test_a_training_that_pauses_ends_as_if_it_had_not(learner: ModuleType, trained: Trained, tmp_path: Path) -> None:
    config = learner.LearnerConfig(iterations=9)
    whole = train("learner-full", config, SOURCE, store=str(tmp_path / "whole"), seed=1)
    store = str(tmp_path / "paused")
    trained.stages.clear()
    weights = []
    for until in (3, 3, 6, None):
        (name,) = train_all([("learner-full", config)], SOURCE, store=store, seed=1, until=[until])
        assert name == whole
        if until is not None:
            paused = load_checkpoint(Folder(store, name).paused_url(until), "learner-full")
            assert (paused.fingerprint, paused.stage) == (name, "full")
            assert not Folder(store, name).finished
            weights.append(paused.weights["head.weight"])
    assert trained.stages == ["base", "full", "full", "full"], "what is there is not done again"
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0], weights[1])
    ended, undisturbed = (load_checkpoint(checkpoint_url(folder, whole)) for folder in (store, str(tmp_path / "whole")))
    for tensor, expected in zip(ended.weights.values(), undisturbed.weights.values(), strict=True):
        assert torch.equal(tensor, expected)
    left = {path.name for path in (tmp_path / "paused" / "checkpoints" / whole).iterdir()}
    assert not {name for name in left if name.startswith(("paused", "partial"))}


def test_a_stage_that_others_build_on_does_not_pause_for_one_of_them(
    learner: ModuleType, trained: Trained, tmp_path: Path
) -> None:
    config = learner.LearnerConfig(iterations=6)
    pairs = [("learner-base", config), ("learner-full", config)]
    base, full = train_all(pairs, SOURCE, store=str(tmp_path), seed=1, until=[2, 4])
    assert Folder(str(tmp_path), base).finished
    assert not Folder(str(tmp_path), full).finished
    assert exists(Folder(str(tmp_path), full).paused_url(4))


def test_two_callers_train_once(learner: ModuleType, trained: Trained, tmp_path: Path) -> None:
    trained.delay = 0.3
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(_train(learner, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(names) == 3
    assert len(set(names)) == 1
    assert trained.stages == ["base", "full"]


def test_a_weight_that_is_not_finite_is_never_written(
    learner: ModuleType, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(self: Any, *_: object, **__: object) -> None:
        self.module.head.bias.data[0] = float("nan")

    monkeypatch.setattr("vodbench.training.loop.StageTrainer.run", poison)
    with pytest.raises(TrainingError, match=r"'head\.bias' is not finite"):
        _train(learner, tmp_path, "learner-base")
    assert not list(tmp_path.rglob("model.pt"))


def test_a_damaged_partial_checkpoint_is_named(learner: ModuleType, trained: Trained, tmp_path: Path) -> None:
    (only,) = plan_stages("learner-base", learner.LearnerConfig(), "learner-data", 1)
    folder = tmp_path / "checkpoints" / only.fingerprint
    folder.mkdir(parents=True)
    (folder / "partial.pt").write_bytes(b"half")
    with pytest.raises(UserError, match=r"partial\.pt.*delete it"):
        _train(learner, tmp_path, "learner-base")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers = 0"),
        ({"threads": 0}, "threads = 0"),
        ({"split": "trian"}, "unknown split 'trian'"),
        ({"store": "memory://store"}, "in this process's memory"),
        ({"method": "lerner"}, "unknown method 'lerner'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    learner: ModuleType, tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    arguments = {"method": "learner-base", "store": str(tmp_path / "store"), "split": "train", **changes}
    with pytest.raises(UserError, match=message):
        train(arguments.pop("method"), learner.LearnerConfig(), SOURCE, **arguments)
    assert not list(tmp_path.iterdir())


def test_progress_completes_a_stage_that_ended_unseen(learner: ModuleType) -> None:
    planned = plan_stages("learner-full", learner.LearnerConfig(iterations=6), "d", 0)
    told: list[tuple[str, int, int]] = []
    relay = _Relay(planned, lambda stage, iteration, iterations, _: told.append((stage, iteration, iterations)))
    base, full = (p.fingerprint for p in planned)
    relay.look(None)
    relay.look({"fingerprint": base, "iteration": 2, "metrics": {}})
    relay.look({"fingerprint": base, "iteration": 2, "metrics": {}})
    relay.look({"fingerprint": full, "iteration": 1, "metrics": {}})
    relay.finish()
    assert told == [("base", 2, 6), ("base", 6, 6), ("full", 1, 6), ("full", 6, 6)]


class TestRunFolder:
    RUN: Mapping[str, Any] = {
        "method": "m",
        "seed": 0,
        "split": "train",
        "data_fingerprint": "d",
        "config": {"width": 4, "T": 3},
        "fingerprint": "f",
    }

    def test_the_same_run_may_continue(self, tmp_path: Path) -> None:
        check_run_folder(str(tmp_path), self.RUN)
        write_run_file(str(tmp_path), self.RUN)
        check_run_folder(str(tmp_path), {**self.RUN, "data": "elsewhere"})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [({"seed": 2}, "it has seed = 0, here 2"), ({"config": {"width": 5, "T": 3}}, "it has width = 4, here 5")],
    )
    def test_another_run_is_refused_with_the_difference(
        self, tmp_path: Path, changes: Mapping[str, Any], message: str
    ) -> None:
        write_run_file(str(tmp_path), self.RUN)
        with pytest.raises(UserError, match=message):
            check_run_folder(str(tmp_path), {**self.RUN, **changes})

    def test_a_study_s_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "study.yaml").write_text("name: other")
        with pytest.raises(UserError, match="belongs to a study"):
            check_run_folder(str(tmp_path), self.RUN)

    def test_a_damaged_mark_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("[")
        with pytest.raises(UserError, match="damaged"):
            check_run_folder(str(tmp_path), self.RUN)


class TestCommand:
    """``vodbench train``, with the same stand-in for Ray."""

    @pytest.fixture
    def run(self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        (tmp_path / "learner-data").mkdir()
        monkeypatch.setattr("vodbench.cluster.start_ray", lambda *_: None)

        def run(*arguments: str, method: str = "learner-full", data: str = "learner-data") -> Result:
            paths = ["--data", str(tmp_path / data), "--out", str(tmp_path / "out")]
            return CliRunner().invoke(app, ["train", method, *paths, *arguments])

        return run

    def test_it_trains_says_what_it_did_and_does_it_once(
        self, run: Callable[..., Result], trained: Trained, tmp_path: Path
    ) -> None:
        for _ in range(2):
            result = run("--preset", "tiny", "--set", "width=5", "--json")
            assert result.exit_code == 0, result.output
        assert trained.stages == ["base", "full"]
        figures = json.loads(result.stdout.splitlines()[-1])
        assert figures.keys() >= {"checkpoint", "seconds", "base_loss", "full_loss", "full_seconds"}
        assert load_checkpoint(figures["checkpoint"]).config.to_mapping()["iterations"] == 6
        checkpoint, config = resolve_run(str(tmp_path / "out"))
        assert (checkpoint.method, config.to_mapping()["width"]) == ("learner-full", 5)

    @pytest.mark.parametrize(
        ("arguments", "options", "message"),
        [
            ((), {"method": "lerner-full"}, "unknown method 'lerner-full': did you mean 'learner-full'"),
            (("--preset", "tny"), {}, "unknown preset 'tny': did you mean 'tiny'"),
            (("--set", "widht=3"), {}, "unknown knob 'widht': did you mean 'width'"),
            (("--set", "width=0"), {}, "width = 0 is not accepted"),
            (("--device", "gpu"), {}, "unknown device 'gpu'"),
            (("--workers", "0"), {}, "--workers 0"),
            (("--split", "vall"), {}, "unknown split 'vall'"),
            ((), {"data": "nowhere"}, "does not exist"),
        ],
    )
    def test_bad_input_is_refused_and_nothing_is_written(
        self, run: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...], options: Any, message: str
    ) -> None:
        result = run(*arguments, **options)
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)
        assert not (tmp_path / "out").exists()

    def test_the_folder_of_another_run_is_refused(self, run: Callable[..., Result]) -> None:
        assert run("--preset", "tiny").exit_code == 0
        result = run("--preset", "tiny", "--seed", "3")
        assert isinstance(result.exception, UserError)
        assert "it has seed = 0, here 3" in str(result.exception)

    def test_a_loss_that_explodes_is_a_line_not_a_traceback(self, run: Callable[..., Result]) -> None:
        result = run("--set", "explode=true")
        assert result.exit_code == 1
        assert "iteration 3" in result.stderr
        assert "Traceback" not in result.stderr
