"""``vodbench evaluate``: COCO files and stored detections, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from vodbench.cli import app
from vodbench.cli import evaluate as evaluate_command
from vodbench.detections import DetectionBuilder, write_detections
from vodbench.errors import UserError
from vodbench.spec import ClassInfo, Detections, Frame, SnippetInfo, Truth


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    (line,) = result.stdout.splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


# ---- COCO ---------------------------------------------------------------------------------------------------


def annotations() -> dict[str, Any]:
    """Two videos of two frames; category 7 moves fast, 40 stands still, 99 is never there."""
    images = [{"id": 10 + n, "video_id": n // 2, "frame_id": n % 2} for n in range(4)]
    objects = []
    for n, image in enumerate(images):
        where = {"image_id": image["id"]}
        objects.append({**where, "category_id": 7, "bbox": [200 * (n % 2), 0, 100, 100], "instance_id": 1})
        objects.append({**where, "category_id": 40, "bbox": [0, 300, 50.5, 40], "instance_id": 2})
    for n, entry in enumerate(objects):
        entry["id"] = n
    categories = [{"id": i, "name": f"name {i}"} for i in (99, 7, 40)]
    return {"images": images, "annotations": objects, "categories": categories}


def results() -> list[dict[str, Any]]:
    """Category 40 is always found; category 7 in every second frame, below one detection of nothing."""
    found = [{"image_id": 10 + n, "category_id": 40, "bbox": [0, 300, 50.5, 40], "score": 0.9} for n in range(4)]
    found += [{"image_id": n, "category_id": 7, "bbox": [0, 0, 100, 100], "score": 0.5} for n in (10, 12)]
    return [*found, {"image_id": 11, "category_id": 7, "bbox": [600, 600, 20, 20], "score": 0.8}]


def written(folder: Path, truth: Any, found: Any) -> tuple[str, ...]:
    (folder / "gt.json").write_text(truth if isinstance(truth, str) else json.dumps(truth))
    (folder / "dt.json").write_text(found if isinstance(found, str) else json.dumps(found))
    return ("--coco-gt", str(folder / "gt.json"), "--coco-dt", str(folder / "dt.json"))


def test_coco_video_files_give_map_classes_motion_and_interval(tmp_path: Path) -> None:
    files = written(tmp_path, annotations(), results())
    out = figures(*files, "--protocol", "ilsvrc", "--bootstrap", "200")
    # Class 7: one wrong, then two right of four: precision 2/3 up to recall 1/2.
    assert out["per_class"] == {"7": pytest.approx(1 / 3), "40": pytest.approx(1.0), "99": None}
    assert out["map"] == pytest.approx(2 / 3)
    # Slow: class 40 alone. Fast: class 7; the wrong detection overlaps nothing, and weighs the half that is not fast.
    assert out["motion"] == {
        "slow": pytest.approx(1.0),
        "medium": None,
        "fast": pytest.approx(0.5 * 2 / 2.5),
    }
    assert out["low"] <= out["map"] <= out["high"]
    assert out["interval"] == [out["low"], out["high"]]
    assert (out["num_snippets"], out["num_frames"]) == (2, 4)


def test_the_coco_protocol_gives_both_of_its_figures(tmp_path: Path) -> None:
    found = results()
    for entry in found[:4]:
        entry["bbox"] = [0, 300, 50.5, 30]  # IoU 0.75 exactly: right up to that threshold, 6 of 10
    out = figures(*written(tmp_path, annotations(), found), "--protocol", "coco")
    half = 51 / 101 * 2 / 3  # 101 points: recall up to 1/2 holds 51 of them
    assert out["map50"] == pytest.approx((half + 1) / 2)
    assert out["map"] == out["map5095"] == pytest.approx((half + 0.6) / 2)
    assert "interval" not in out


def test_without_video_fields_each_image_stands_alone_and_there_is_no_motion(tmp_path: Path) -> None:
    truth = annotations()
    for image in truth["images"]:
        del image["video_id"], image["frame_id"]
    out = figures(*written(tmp_path, truth, results()))
    assert out["num_snippets"] == 4
    assert "motion" not in out
    assert out["map"] == pytest.approx(2 / 3)


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    truth = annotations()
    truth["annotations"].append(
        {"id": 50, "image_id": 11, "category_id": 7, "bbox": [550, 550, 200, 200], "iscrowd": 1, "instance_id": 9}
    )
    assert figures(*written(tmp_path, truth, results()))["per_class"]["7"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["eval_normal", "eval_small"])
def test_coco_golden_through_the_command(golden: Path, tmp_path: Path, name: str) -> None:
    stored = json.loads((golden / name / "ground_truth.json").read_text())["frames"]
    rows = np.loadtxt(golden / name / "detections.txt")
    boxes = [(f["id"], c, b) for f in stored for b, c in zip(f["boxes"], f["labels"], strict=True)]
    truth = {
        "images": [{"id": f["id"]} for f in stored],
        "categories": [{"id": n, "name": str(n)} for n in range(1, 31)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]]}
            for n, (i, c, b) in enumerate(boxes)
        ],
    }
    found = [
        {"image_id": int(r[0]), "category_id": int(r[1]), "score": r[2], "bbox": [r[3], r[4], r[5] - r[3], r[6] - r[4]]}
        for r in rows
    ]
    expected = json.loads((golden / name / "expected.json").read_text())["coco"]
    out = figures(*written(tmp_path, truth, found), "--protocol", "coco")
    assert (out["map50"], out["map"]) == pytest.approx((expected["ap50"], expected["ap"]), abs=1e-9)


def _changed(change: Callable[[Any], object], original: Any) -> Any:
    change(original)
    return original


BAD_TRUTH: dict[str, tuple[Callable[[Any], object], str]] = {
    "no images": (lambda t: t.pop("images"), "has no list of images"),
    "empty images": (lambda t: t["images"].clear(), "images is empty"),
    "twice": (lambda t: t["images"].append(t["images"][0]), "id 10 is there more than once"),
    "unknown image": (lambda t: t["annotations"][0].update(image_id=3), "has no image 3"),
    "unknown category": (lambda t: t["annotations"][0].update(category_id=3), "has no category 3"),
    "short box": (lambda t: t["annotations"][1].update(bbox=[1, 2, 3]), "entry 1: bbox is"),
    "negative side": (lambda t: t["annotations"][1].update(bbox=[1, 2, 3, -1]), "w and h not negative"),
    "text id": (lambda t: t["images"][0].update(id="a"), "id is 'a'; it must be an integer"),
    "half tracked": (lambda t: t["annotations"][3].pop("instance_id"), "entry 3: instance_id is None"),
    "frame twice": (lambda t: t["images"][1].update(frame_id=0), "unique within its video_id"),
    "no frame": (lambda t: t["images"][1].pop("frame_id"), "frame_id is None"),
    "no objects": (lambda t: t["annotations"].clear(), "not one object"),
}

BAD_RESULTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "unknown image": (lambda r: r[2].update(image_id=77), "entry 2: the ground truth has no image 77"),
    "unknown category": (lambda r: r[0].update(category_id=1), "has no category 1"),
    "nan": (lambda r: r[0].update(score=float("nan")), "score is nan; it must be a finite number"),
    "infinite": (lambda r: r[0].update(score=float("inf")), "score is inf"),
    "no score": (lambda r: r[5].pop("score"), "entry 5: score is None"),
    "text score": (lambda r: r[5].update(score="0.5"), "entry 5: score is '0.5'"),
    "negative width": (lambda r: r[1].update(bbox=[0, 0, -2, 5]), "entry 1: bbox"),
    "infinite box": (lambda r: r[1].update(bbox=[0, 0, float("inf"), 5]), "entry 1: bbox"),
    "not objects": (lambda r: r.append(3), "is not a COCO result list"),
}


@pytest.mark.parametrize("case", BAD_TRUTH)
def test_bad_annotations_are_one_clear_line(tmp_path: Path, case: str) -> None:
    change, message = BAD_TRUTH[case]
    result = run(*written(tmp_path, _changed(change, annotations()), results()))
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results_are_one_clear_line(tmp_path: Path, case: str) -> None:
    change, message = BAD_RESULTS[case]
    result = run(*written(tmp_path, annotations(), _changed(change, results())))
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ("{", [], "gt.json' is not valid JSON"),
        ([], [], "holds a list, not COCO annotations"),
        (None, "[1", "dt.json' is not valid JSON"),
        (None, {}, "is not a COCO result list"),
    ],
)
def test_malformed_files_are_one_clear_line(tmp_path: Path, truth: Any, found: Any, message: str) -> None:
    result = run(*written(tmp_path, annotations() if truth is None else truth, found))
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    files = written(tmp_path, annotations(), results())
    cases: list[tuple[tuple[object, ...], str]] = [
        ((), "give DETECTIONS and --data"),
        (files[:2], "--coco-gt and --coco-dt go together"),
        ((*files, "--data", "x"), "--coco-gt and --coco-dt go together"),
        (("d.parquet",), "give DETECTIONS and --data"),
        (("d.parquet", "--data", "x", "--run", "r"), "give DETECTIONS and --data"),
        (("d.parquet", "--data", "x", "--set", "T=3"), "belong to --run"),
        ((*files, "--protocol", "cocoo"), "did you mean 'coco'"),
        (("--coco-gt", tmp_path / "none.json", "--coco-dt", files[3]), "none.json' does not exist"),
    ]
    for arguments, message in cases:
        result = run(*arguments)
        assert isinstance(result.exception, UserError), arguments
        assert message in str(result.exception)


# ---- a data set ---------------------------------------------------------------------------------------------


class TwoSnippets:
    """A data set in memory: one object of class 1 that moves, blurred in every second frame."""

    name, root, fingerprint, splits = "memory", "memory", "data one", ("val",)
    classes = (ClassInfo("n1", "zebra"), ClassInfo("n2", "okapi"))

    def snippets(self, split: str) -> list[SnippetInfo]:
        return [SnippetInfo(name, 4) for name in ("a", "b")]

    def read(self, split: str, snippet: str, indices: Any = None, *, with_images: bool = True) -> list[Frame]:
        assert not with_images
        return [self._frame(snippet, index) for index in range(4)]

    def _frame(self, snippet: str, index: int) -> Frame:
        box = np.array([[10 * index, 0, 10 * index + 99, 99]], np.float32)
        one, no = np.ones(1, np.int64), np.zeros(1, bool)
        return Frame(snippet, index, b"", Truth(box, one, one, no, no), {"blur": 0.5} if index % 2 else {})


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("vodbench.data_source.DataSource.open", lambda self: TwoSnippets())
    return "memory"


def stored(path: Path, misses: tuple[int, ...], data_fingerprint: str = "data one") -> str:
    """Detections that are right but for the frames ``misses`` of both snippets."""
    builder = DetectionBuilder()
    for snippet in ("a", "b"):
        for index in range(4):
            left = 900 if index in misses else 10 * index
            box = np.array([[left, 0, left + 99, 99]], np.float32)
            builder.add(
                snippet, index, Detections(box, np.array([0.9 - index / 100], np.float32), np.ones(1, np.int64))
            )
    write_detections(str(path), builder.build({"data": data_fingerprint}))
    return str(path)


def test_stored_detections_are_scored_with_their_tables(data: str, tmp_path: Path) -> None:
    url = stored(tmp_path / "d.parquet", misses=(3,))
    out = figures(url, "--data", data, "--bootstrap", "100")
    assert out["map"] == pytest.approx(0.75)
    assert out["per_class"] == {"zebra": pytest.approx(0.75), "okapi": None}
    assert out["deteriorations"] == {"any": pytest.approx(0.5), "none": pytest.approx(1.0), "blur": pytest.approx(0.5)}
    assert out["low"] == out["high"] == pytest.approx(0.75)  # both snippets are alike
    tables = run(url, "--data", data).stdout
    for word in ("mAP 0.750", "zebra", "okapi", "slow", "blur"):
        assert word in tables


def test_two_methods_are_compared_on_all_and_on_deteriorated_frames(data: str, tmp_path: Path) -> None:
    good, bad = stored(tmp_path / "good.parquet", ()), stored(tmp_path / "bad.parquet", (3,))
    difference = figures(good, "--data", data, "--compare", bad, "--bootstrap", "50")["difference"]
    assert {name: d["mean"] for name, d in difference.items()} == pytest.approx({"all": 0.25, "any": 0.5, "none": 0})
    assert "certain" in run(good, "--data", data, "--compare", bad).stdout


def test_detections_of_other_data_are_refused(data: str, tmp_path: Path) -> None:
    result = run(stored(tmp_path / "d.parquet", (), "data two"), "--data", data)
    assert isinstance(result.exception, UserError)
    assert "made on data data two" in str(result.exception)


def test_a_missing_file_is_named_before_the_data_is_opened(tmp_path: Path) -> None:
    result = run(tmp_path / "none.parquet", "--data", tmp_path / "nowhere")
    assert isinstance(result.exception, UserError)
    assert "none.parquet" in str(result.exception)


def test_weights_are_found_in_a_training_a_study_or_by_themselves(tmp_path: Path) -> None:
    study = tmp_path / "study"
    weights = study / "checkpoints" / "abc" / "model.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    assert evaluate_command.weights_url(f"{study}/", "abc") == str(weights)
    assert evaluate_command.weights_url(f"{study}/trials/xyz", "abc") == str(weights)
    assert evaluate_command.weights_url(str(tmp_path / "alone"), "abc") == str(tmp_path / "alone")


def test_weights_are_found_from_within_the_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "study" / "checkpoints" / "abc" / "model.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    for place, name in ((tmp_path, "study"), (tmp_path / "study", "trials/xyz"), (tmp_path / "study", ".")):
        monkeypatch.chdir(place)
        assert Path(evaluate_command.weights_url(name, "abc")).samefile(weights)
    monkeypatch.chdir(tmp_path)
    assert evaluate_command.weights_url("alone", "abc") == "alone"
