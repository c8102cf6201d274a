"""Packages written from templates: what they hold, that linters and type checkers accept them, and what is refused.

That they work is said by their own tests, which ``test_readme.py`` runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import Run

from vodbench.errors import UserError
from vodbench.registry import table
from vodbench.scaffold import write_package

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST = "abcdefgh-ijklmnop-qrstuv"
TEMPLATES = [("method", "vodbench.methods", "METHODS"), ("dataset", "vodbench.datasets", "DATASETS")]


def tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    if not beside.exists():
        pytest.skip(f"needs {name} beside this Python (pip install {name})")
    return str(beside)


@pytest.mark.parametrize(("template", "group", "rows"), TEMPLATES)
def test_the_package_declares_what_it_holds(template: Any, group: str, rows: str, tmp_path: Path) -> None:
    written = write_package(template, "my-own", str(tmp_path / "p"))
    project = tomllib.loads((tmp_path / "p" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "vodbench-my-own"
    assert project["entry-points"] == {group: {"my-own": f"vodbench_my_own:{rows}"}}
    assert (tmp_path / "p" / written.module).exists()
    assert sorted(written.files) == sorted(
        str(f.relative_to(tmp_path / "p")) for f in (tmp_path / "p").rglob("*") if f.is_file()
    )


@pytest.mark.parametrize("template", ["method", "dataset"])
@pytest.mark.parametrize("name", ["x", "my-own", LONGEST])
def test_linters_have_nothing_to_say(template: Any, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    write_package(template, name, str(folder))
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run([tool("ruff"), *words, "."], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_type_checkers_have_nothing_to_say(tmp_path: Path) -> None:
    for template, name in (("method", "my-own"), ("dataset", "my-video")):
        write_package(template, name, str(tmp_path / name))  # type: ignore[arg-type]
    done = subprocess.run(
        [tool("mypy"), "--strict", "-p", "vodbench_my_own", "-p", "vodbench_my_video"],
        cwd=REPOSITORY,
        env={**os.environ, "MYPYPATH": os.pathsep.join(str(tmp_path / name) for name in ("my-own", "my-video"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("template", ["method", "dataset"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is not accepted"),
        ("Mine", "is not accepted"),
        ("my_own", "is not accepted"),
        ("9lives", "is not accepted"),
        ("my--own", "is not accepted"),
        ("../mine", "is not accepted"),
        (LONGEST + "w", "up to 24"),
        ("none", "a word of Python's"),
        ("methods", "vodbench_methods is installed already"),
    ],
)
def test_names_that_cannot_be_used(
    template: Any, name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        write_package(template, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("template", "name", "said"),
    [
        ("method", next(iter(table("methods"))), "is there already"),
        ("dataset", next(iter(table("datasets"))), "is there already"),
        ("method", "method", "makes a class MethodConfig"),
        ("dataset", "ray-clips", "makes a class RayClips"),
    ],
)
def test_names_that_are_taken(template: Any, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        write_package(template, name, str(tmp_path / "p"))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    write_package("method", "my-own", str(folder))
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    (tmp_path / "file").write_text("mine")
    for place in (folder, tmp_path / "file"):
        with pytest.raises(UserError, match="is there already"):
            write_package("dataset", "my-own", str(place))
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    with pytest.raises(UserError, match="not on this machine"):
        write_package("method", "my-own", "memory://bucket/p")
    with pytest.raises(UserError, match="a file is in its way"):
        write_package("method", "my-own", str(tmp_path / "file" / "p"))


def test_the_command_writes_beside_and_says_what_is_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("new", "method", "my-own")
    assert status == 0
    assert out == "vodbench-my-own\n"
    assert "pip install --editable vodbench-my-own" in err
    assert (tmp_path / "vodbench-my-own" / "tests" / "test_my_own.py").exists()
