"""``vodbench study gains`` and the scales of a study, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Run

from vodbench.cli import app
from vodbench.errors import UserError

STUDY: dict[str, Any] = {
    "name": "little",
    "title": "two methods on four snippets",
    "preset": "tiny",
    "settings": {"iterations": 2, "relation_iterations": 2},
    "methods": [
        {"method": "faster-rcnn"},
        {"method": "selsa", "knobs": {"test_frames": [1, 2]}},
    ],
    "accuracy": {"bootstrap": 20},
    "runtime": {"snippets": 1},
    "scales": {
        "small": {
            "name": "little-small",
            "data": {"generate": {"snippets": 3, "val_snippets": 2, "frames": 6, "size": 64}},
        }
    },
}


@pytest.fixture
def study(tmp_path: Path) -> str:
    path = tmp_path / "little.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return str(path)


@pytest.mark.slow
def test_gains_generate_sweep_compare_and_continue(little_sweep: Any, run: Run) -> None:
    figures, out = little_sweep.figures, little_sweep.out
    expected = ["rdn - basic", "rdn: T = 2 - T = 1", "rdn: T = 3 - T = 1"]
    assert [gain["name"] for gain in figures["gains"]] == expected
    for gain in figures["gains"]:
        assert gain["every_frame"]["low"] <= gain["every_frame"]["high"]
        assert gain["every_frame"]["mean"] == pytest.approx(gain["a_map"] - gain["b_map"])
    assert json.loads((out / "gains.json").read_text()) == figures["gains"]
    assert (out / "data" / "shards" / "index.json").is_file()

    again = run(*little_sweep.words)
    assert again.status == 0
    assert json.loads(again.out.splitlines()[-1]) == figures
    assert "training" not in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study", "gains", "relatoin"], "did you mean 'relation'"),
        (["study", "gains", "demo"], "study 'demo' has no 'comparisons'"),
        (["sweep", "rdn-table4", "--scale", "smal"], "did you mean 'small'"),
        (["sweep", "demo", "--scale", "small"], "unknown scale 'small': accepted: none"),
        (["sweep", "rdn-table4"], "names no data; give its root with --data"),
        (
            ["sweep", "rdn-table4", "--scale", "small", "--set", "data.generate.snipets=3"],
            "did you mean 'snippets'",
        ),
        (["sweep", "rdn-table4", "--scale", "small", "--set", "methods.rdn.knobs.T=[0]"], "T = 0"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        app(arguments, standalone_mode=False)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_generated_data_is_not_written_into_the_folder_of_another_study(study: str, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    text = {key: value for key, value in STUDY.items() if key != "scales"}
    (folder / "study.yaml").write_text(yaml.safe_dump({**text, "name": "other"}))
    (folder / "sweep.json").write_text(json.dumps({"id": "x", "data_fingerprint": "f", "began": "now"}))
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="belongs to another study: name is 'other' there"):
        app(["sweep", study, "--scale", "small", "--out", str(folder)], standalone_mode=False)
    assert sorted(path.name for path in folder.iterdir()) == before
