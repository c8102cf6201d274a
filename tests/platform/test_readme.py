"""The README's examples are followed here to the letter: a new method, a new data set, a study."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from vodbench.images import encode_jpeg
from vodbench.scaffold import write_package
from vodbench.spec import Clip, ClipFrame, DatasetSpec, MethodSpec, Truth
from vodbench.studies.loading import parse_study

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def code(path: str) -> str:
    """What the README shows of that file."""
    match = re.search(re.escape(f"`{path}`") + r":\n\n```python\n(.*?)```", README, re.DOTALL)
    assert match, f"the README shows no code for {path}"
    return match.group(1)


def example(path: str, folder: Path) -> ModuleType:
    """The README's code for that file, imported."""
    file = folder / "example.py"
    file.write_text(code(path))
    name = "readme_" + Path(path).parent.name
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_example_method_trains_and_streams(tmp_path: Path) -> None:
    spec = example("vodbench-copy/vodbench_copy/model.py", tmp_path).SPEC
    assert isinstance(spec, MethodSpec)
    config = spec.config.from_mapping({**spec.presets["tiny"], "key_frame_interval": 3, "score_threshold": 0.0})
    method = spec.build(config, 2)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 64, 64, 3), np.uint8)
    truth = Truth(
        np.array([[8, 8, 40, 40]], np.float32), np.array([1]), np.array([0]), np.array([False]), np.array([False])
    )
    (stage,) = spec.stages(config)
    method.begin_stage(stage)
    losses = method.losses([Clip(0, "s", ClipFrame(0, images[0], truth), (), False)])
    assert all(loss.isfinite() for loss in losses.values())
    method.eval()  # type: ignore[attr-defined]
    stream = method.stream()
    found = [detections for image in images for detections in stream.push(image)] + stream.close()
    assert len(found) == 5
    assert found[0] is found[1] is found[2]
    assert found[3] is found[4]
    assert not np.array_equal(found[0].boxes, found[3].boxes)


def test_the_example_data_set_reads_and_feeds_training(tmp_path: Path) -> None:
    spec = example("vodbench-csv-boxes/vodbench_csv_boxes/reader.py", tmp_path).SPEC
    assert isinstance(spec, DatasetSpec)
    root = tmp_path / "video"
    rows = ["snippet,frame,track,class,x1,y1,x2,y2"]
    for snippet in range(6):
        (root / f"s{snippet}").mkdir(parents=True)
        for frame in range(3):
            (root / f"s{snippet}" / f"{frame:06d}.jpg").write_bytes(encode_jpeg(np.full((32, 40, 3), 9, np.uint8)))
            if frame:
                rows.append(f"s{snippet},{frame},7,{'cat' if snippet % 2 else 'dog'},{frame},2,20,30")
    (root / "boxes.csv").write_text("\n".join(rows))

    assert spec.accepts(str(root))
    dataset = spec.open(str(root))
    assert [info.name for info in dataset.classes] == ["cat", "dog"]
    assert [s.id for s in dataset.snippets("val")] == ["s0", "s5"]
    assert [s.num_frames for s in dataset.snippets("train")] == [3] * 4
    frames = dataset.read("train", "s1")
    np.testing.assert_array_equal(frames[2].truth.boxes, [[2, 2, 20, 30]])
    assert list(frames[2].truth.labels) == [1]
    assert len(frames[0].truth.labels) == 0
    assert len(dataset.training_frames("train")) == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("template", "name", "path"),
    [("method", "copy", "vodbench_copy/model.py"), ("dataset", "csv-boxes", "vodbench_csv_boxes/reader.py")],
)
def test_the_readme_shows_what_is_written(template: Any, name: str, path: str, tmp_path: Path) -> None:
    write_package(template, name, str(tmp_path / "package"))
    assert (tmp_path / "package" / path).read_text() == code(f"vodbench-{name}/{path}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "said"), [("Adding a method", "key_frame_interval"), ("Adding a data set", "csv-boxes")]
)
def test_the_walk_through_works_word_by_word(heading: str, said: str, tmp_path: Path) -> None:
    """Each of its commands in turn, in an empty folder; ``pip`` alone is played, as it would fetch what builds."""
    block = re.search(rf"## {heading}\n\n```\n(.*?)```", README, re.DOTALL)
    assert block
    folders = [str(tmp_path / "site")]
    printed = ""
    for line in block.group(1).splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] == ["pip", "install", "--editable"]:
            installed(tmp_path / words[3], tmp_path / "site")
            folders.append(str(tmp_path / words[3]))
            continue
        start = {"vodbench": ["-c", "from vodbench.cli import main; main()"], "pytest": ["-m", "pytest", "-q"]}[
            words[0]
        ]
        path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, *start, *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "skipped" not in done.stdout
        printed = done.stdout
    assert said in printed


def installed(package: Path, site: Path) -> None:
    """What an editable installation leaves in ``site``: the entry points of the package's own pyproject.toml."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in rows.items())
        for group, rows in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_the_example_study_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    study = parse_study(yaml.safe_load(text), "README")
    assert [entry.method for entry in study.methods] == ["faster-rcnn", "rdn"]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^vodbench ([a-z]+)", README, re.MULTILINE))))
def test_every_command_of_the_readme_exists(command: str) -> None:
    from vodbench.cli import COMMANDS

    assert command in COMMANDS
