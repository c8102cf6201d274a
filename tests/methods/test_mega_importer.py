"""mega.pytorch's checkpoints: its own detections as the oracle, and files that are something else."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from vodbench.checkpoints import load_checkpoint
from vodbench.cli import import_weights
from vodbench.errors import UserError
from vodbench.registry import method_spec
from vodbench.spec import Detections
from vodbench_methods.importers.mega import import_mega

COMPARED = 50  # detections a frame: ties at the cap of 300 are arbitrary
# json["opts"] in our words: 60 proposals of 300, frames as they are; RDN: a window of 5 frames, 20 proposals of each.
BASE: dict[str, Any] = {"short_side": 160, "max_side": 224, "candidates": 300, "proposals": 60}
RDN: dict[str, Any] = {**BASE, "T": 2, "K": 20}
DFF: dict[str, Any] = {**BASE, "key_frame_interval": 3}


def published_anchors() -> np.ndarray[Any, Any]:
    """mega.pytorch's anchor formula, step by step: base box of 16 px, ratios in whole pixels, then scales."""
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        width = round((256 / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in (4, 8, 16, 32):
            w, h = width * scale - 1, height * scale - 1
            rows.append([7.5 - w / 2, 7.5 - h / 2, 7.5 + w / 2, 7.5 + h / 2])
    return np.array(rows, np.float32)


def value_by_formula(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """The golden checkpoint's entry of that name."""
    if "cell_anchors" in name:
        return torch.from_numpy(published_anchors())
    if name.endswith(("running_mean", "bias")):
        return torch.zeros(shape)
    if name.endswith("running_var"):
        return torch.ones(shape)
    if ".bn" in name or "downsample.1" in name:
        return torch.full(shape, 0.5)
    gain = 0.1 if ".W" in name or "cls_score" in name or "bbox_pred" in name else 1.0
    numbers = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    return torch.from_numpy((gain * numbers * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32))


@pytest.fixture(scope="module")
def files(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden checkpoints as mega.pytorch would have saved them from a distributed run."""
    folder = tmp_path_factory.mktemp("mega")
    paths = {}
    for which in ("mega_base", "mega_rdn_base", "mega_dff"):
        recipe = json.loads((golden / f"{which}.json").read_text())
        model = {f"module.{k}": value_by_formula(k, shape, recipe["seed"]) for k, shape in recipe["shapes"].items()}
        paths[which] = folder / f"{which}.pth"
        torch.save({"model": model, "optimizer": {}, "scheduler": {}, "iteration": 120000}, paths[which])
    return paths


@pytest.fixture(scope="module")
def base_model(files: dict[str, Path]) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(files["mega_base"], weights_only=True)["model"]
    return model


@pytest.mark.parametrize(
    ("which", "method", "settings"),
    [("mega_base", "faster-rcnn", BASE), ("mega_rdn_base", "rdn-basic", RDN), ("mega_dff", "dff", DFF)],
)
def test_published_weights_give_the_published_detections(
    golden: Path, files: dict[str, Path], which: str, method: str, settings: dict[str, Any]
) -> None:
    imported = import_mega(str(files[which]), settings)
    assert (imported.method, imported.num_classes) == (method, 30)
    module: Any = method_spec(method).build(imported.config, imported.num_classes)
    module.load_state_dict(imported.weights)
    stream = module.eval().stream()
    expected = np.load(golden / f"{which}.npz")
    found = [detections for frame in expected["frames"] for detections in stream.push(frame)] + stream.close()
    assert len(found) == len(expected["frames"])
    for index, detections in enumerate(found):
        assert_same(detections, *(expected[f"{part}_{index}"] for part in ("boxes", "scores", "labels")))


def assert_same(found: Detections, boxes: Any, scores: Any, labels: Any) -> None:
    """The golden top detections, each paired with one of ours of its label: 0.05 px and 1e-4, both ways."""
    order = np.argsort(-scores, kind="stable")[:COMPARED]
    assert np.abs(found.scores[:COMPARED] - scores[order]).max() < 1e-4
    free = np.ones(len(found.scores), bool)
    for row in order:
        distance = np.abs(found.boxes - boxes[row]).max(axis=1)
        fits = free & (found.labels == labels[row]) & (distance < 0.05) & (np.abs(found.scores - scores[row]) < 1e-4)
        assert fits.any(), f"no detection like {labels[row]} {scores[row]:.5f} {boxes[row]}"
        free[np.flatnonzero(fits)[distance[fits].argmin()]] = False


def test_advanced_stage_is_recognised_and_placed(files: dict[str, Path], tmp_path: Path) -> None:
    """RDN has one fc and two relation modules more than its base: refine, then distil."""
    model = torch.load(files["mega_rdn_base"], weights_only=True)["model"]
    extractor = "module.roi_heads.box.feature_extractor."
    shapes = {"Wgs": (16, 64, 1, 1), "Wqs": (1024, 1024), "Wks": (1024, 1024), "Wvs": (1024, 1024, 1, 1)}
    for number in (2, 3):
        for part, shape in shapes.items():
            model[f"{extractor}{part}.{number}.weight"] = torch.full(shape, float(number))
            model[f"{extractor}{part}.{number}.bias"] = torch.full(shape[:1], float(number))
    model[f"{extractor}fcs.2.weight"], model[f"{extractor}fcs.2.bias"] = (
        torch.full((1024, 1024), 7.0),
        torch.zeros(1024),
    )
    torch.save({"model": model}, tmp_path / "rdn.pth")
    imported = import_mega(str(tmp_path / "rdn.pth"), RDN)
    assert imported.method == "rdn"
    weights = imported.weights
    assert weights["refine.value.weight"].unique().tolist() == [2.0]
    assert weights["distil.geometry.bias"].unique().tolist() == [3.0]
    assert weights["refine_fc.weight"].unique().tolist() == [7.0]


# ---- files that do not fit


def saved(model: Any, folder: Path) -> str:
    path = folder / "other.pth"
    torch.save({"model": model}, path)
    return str(path)


def test_mismatch_lists_missing_and_unexpected(base_model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = dict(base_model)
    del model["module.rpn.head.conv.bias"]
    model["module.rpn.head.extra"] = torch.zeros(1)
    model["module.roi_heads.box.predictor.bbox_pred.bias"] = torch.zeros(3)
    with pytest.raises(UserError) as raised:
        import_mega(saved(model, tmp_path))
    message = str(raised.value)
    assert "base (fc6, fc7)" in message
    assert "missing rpn.head.conv.bias" in message
    assert "unexpected rpn.head.extra" in message
    assert "bbox_pred.bias [3] instead of [124]" in message


def test_other_anchors_are_refused(base_model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    model = dict(base_model)
    model["module.rpn.anchor_generator.cell_anchors.0"] = base_model["module.rpn.anchor_generator.cell_anchors.0"] + 1
    with pytest.raises(UserError, match="other anchors"):
        import_mega(saved(model, tmp_path))


def test_another_network_is_refused(base_model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    mega = {name.replace("fc6", "l_fcs.0").replace("fc7", "l_fcs.1"): value for name, value in base_model.items()}
    with pytest.raises(UserError, match="neither mega"):
        import_mega(saved(mega, tmp_path))


def test_another_depth_is_refused(base_model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    shallow = {name: value for name, value in base_model.items() if "layer3.5" not in name}
    with pytest.raises(UserError, match="5 blocks in layer3"):
        import_mega(saved(shallow, tmp_path))


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 'backbone\.body"):
        import_mega(saved({"fc.weight": torch.zeros(2)}, tmp_path))


@pytest.mark.parametrize("content", [b"no checkpoint", None])
def test_unreadable_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth"):
        import_mega(str(path))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": Path("anything")}, tmp_path / "code.pth")  # a class that plain tensors do not need
    with pytest.raises(UserError, match="plain tensors"):
        import_mega(str(tmp_path / "code.pth"))


# ---- the command


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    app.add_typer(import_weights.app, name="import")
    return lambda *arguments: CliRunner().invoke(app, ["import", "mega", *map(str, arguments)])


def test_command_writes_a_checkpoint_that_loads(run: Any, files: dict[str, Path], tmp_path: Path) -> None:
    assert run(files["mega_base"], "--out", tmp_path, "--set", "proposals=60").exit_code == 0
    checkpoint = load_checkpoint(str(tmp_path), "faster-rcnn")
    assert checkpoint.classes[0].name == "airplane"
    assert checkpoint.config.to_mapping()["proposals"] == 60
    checkpoint.build()
    again = run(files["mega_base"], "--out", tmp_path)
    assert isinstance(again.exception, UserError)
    assert "exists already" in str(again.exception)


def test_command_refuses_wrong_class_count_and_writes_nothing(run: Any, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("n1 one\nn2 two\n")
    result = run(files["mega_base"], "--out", tmp_path / "out", "--classes", tmp_path / "classes.txt")
    assert isinstance(result.exception, UserError)
    assert "scores 30 classes but --classes names 2" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_command_refuses_an_unknown_knob(run: Any, files: dict[str, Path], tmp_path: Path) -> None:
    result = run(files["mega_base"], "--out", tmp_path / "out", "--set", "proposal=60")
    assert isinstance(result.exception, UserError)
    assert "did you mean 'proposals'" in str(result.exception)
    assert not (tmp_path / "out").exists()
