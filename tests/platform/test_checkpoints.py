"""Checkpoints: what is written comes back, and what does not fit is refused with the reason."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vodbench.checkpoints import Checkpoint, checkpoint_url, load_checkpoint, resolve_run, save_checkpoint
from vodbench.errors import UserError
from vodbench.spec import ClassInfo


@pytest.fixture
def checkpoint(learner: ModuleType) -> Checkpoint:
    config = learner.LearnerConfig(width=3)
    method = learner.BASE.build(config, 2)
    return Checkpoint(
        method="learner-base",
        config=config,
        classes=(ClassInfo("a", "ant"), ClassInfo("b", "bee")),
        weights=method.state_dict(),
        fingerprint="f" * 16,
        stage="base",
        data_fingerprint="d",
        seed=3,
        revision="r",
    )


@pytest.mark.parametrize("root", ["local", "memory://checkpoints"])
def test_what_is_saved_comes_back(checkpoint: Checkpoint, tmp_path: Path, root: str) -> None:
    url = f"{tmp_path if root == 'local' else root}/c/model.pt"
    save_checkpoint(url, checkpoint)
    for given in (url, url.removesuffix("/model.pt")):
        loaded = load_checkpoint(given, expect_method="learner-base")
        assert loaded.weights.keys() == checkpoint.weights.keys()
        assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in checkpoint.weights.items())
        for name in ("method", "config", "classes", "fingerprint", "stage", "data_fingerprint", "seed", "revision"):
            assert getattr(loaded, name) == getattr(checkpoint, name)


def test_build_gives_the_same_function_in_evaluation_mode(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path / "model.pt"), checkpoint)
    method = load_checkpoint(str(tmp_path)).build()
    assert isinstance(method, torch.nn.Module)
    assert not any(module.training for module in method.modules())
    assert all(torch.equal(method.state_dict()[name], tensor) for name, tensor in checkpoint.weights.items())


def test_a_view_does_not_drag_its_storage_into_the_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    object.__setattr__(checkpoint, "weights", {"small": large[:3]})
    save_checkpoint(str(tmp_path / "model.pt"), checkpoint)
    assert (tmp_path / "model.pt").stat().st_size < 10_000


def test_another_method_is_refused_naming_both(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(str(tmp_path / "model.pt"), checkpoint)
    with pytest.raises(UserError, match=r"'learner-base', not 'learner-full'"):
        load_checkpoint(str(tmp_path), expect_method="learner-full")


def test_entries_that_do_not_fit_are_all_named(checkpoint: Checkpoint) -> None:
    weights = dict(checkpoint.weights)
    weights["stranger"] = weights.pop("head.weight")
    weights["head.bias"] = torch.zeros(7)
    object.__setattr__(checkpoint, "weights", weights)
    with pytest.raises(UserError) as caught:
        checkpoint.build()
    message = str(caught.value)
    assert "missing: head.weight" in message
    assert "unexpected: stranger" in message
    assert "of another shape: head.bias [7] instead of [2]" in message


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["text", "empty", "state dict", "truncated", "schema", "missing key"])
def test_a_foreign_or_damaged_file_is_refused(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.pt"
    save_checkpoint(str(file), checkpoint)
    whole = file.read_bytes()
    values = torch.load(io.BytesIO(whole), weights_only=True)
    data = {
        "text": b"not a checkpoint",
        "empty": b"",
        "state dict": _saved(dict(checkpoint.weights)),
        "truncated": whole[: len(whole) // 2],
        "schema": _saved({**values, "schema": 99}),
        "missing key": _saved({k: v for k, v in values.items() if k != "classes"}),
    }[kind]
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.pt"):
        load_checkpoint(str(file))


def test_a_file_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "model.pt", tmp_path / "trace"
    file.write_bytes(_saved({"format": "vodbench-checkpoint", "schema": 1, "bomb": Bomb(str(trace))}))
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(str(file))
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        load_checkpoint(str(tmp_path / "nowhere"))


class TestResolveRun:
    @pytest.fixture
    def study(self, checkpoint: Checkpoint, tmp_path: Path) -> Path:
        save_checkpoint(checkpoint_url(str(tmp_path), "abc"), checkpoint)
        return tmp_path

    def _trial(self, study: Path, **changes: object) -> str:
        folder = study / "trials" / "t1"
        folder.mkdir(parents=True)
        trial = {"status": "complete", "method": "learner-base", "checkpoint": "abc", "config": {"width": 3, "T": 9}}
        (folder / "trial.json").write_text(json.dumps({**trial, **changes}))
        return f"{folder}/"

    def test_a_file_or_folder_runs_with_its_own_knobs(self, study: Path) -> None:
        for path in (study / "checkpoints/abc", study / "checkpoints/abc/model.pt"):
            found, config = resolve_run(str(path))
            assert config == found.config

    def test_a_trial_runs_with_the_knobs_of_the_trial(self, study: Path) -> None:
        found, config = resolve_run(self._trial(study))
        assert (found.seed, config.to_mapping()["T"], config.to_mapping()["width"]) == (3, 9, 3)

    def test_a_failed_trial_says_why(self, study: Path) -> None:
        with pytest.raises(UserError, match="ran out of memory"):
            resolve_run(self._trial(study, status="failed", reason="ran out of memory", checkpoint=None))

    def test_a_damaged_record_is_named(self, study: Path) -> None:
        path = self._trial(study)
        (Path(path) / "trial.json").write_text("{")
        with pytest.raises(UserError, match=r"trial\.json.*damaged"):
            resolve_run(path)

    def test_a_training_folder_runs_with_the_knobs_it_was_given(self, study: Path) -> None:
        run = {"fingerprint": "abc", "method": "learner-base", "config": {"width": 3, "T": 5}}
        (study / "run.json").write_text(json.dumps(run))
        assert resolve_run(str(study))[1].to_mapping()["T"] == 5

    def test_an_unfinished_training_says_so(self, study: Path) -> None:
        (study / "run.json").write_text(json.dumps({"fingerprint": "later", "method": "learner-base", "config": {}}))
        with pytest.raises(UserError, match="not finished"):
            resolve_run(str(study))

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            resolve_run(str(tmp_path / "nowhere"))
