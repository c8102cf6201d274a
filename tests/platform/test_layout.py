"""The repository's shape: top-level folders must not shadow the standard library, pins must name no host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

FOLDERS = ["platform", "datasets", "methods", "studies", "tests", "tests/platform", "tests/methods", "tests/datasets"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_source_root_is_no_package(folder: str) -> None:
    assert not (REPOSITORY / folder / "__init__.py").exists(), f"{folder}/__init__.py shadows another package"


@pytest.mark.parametrize("folder", [".", "platform", "datasets", "methods", "tests"])
def test_the_standard_library_stays_intact(folder: str) -> None:
    code = "import platform, vodbench, vodbench_methods, vodbench_datasets; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ".".join(map(str, sys.version_info[:3]))


def test_pins_are_names_and_versions_only() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)]
    assert len(lines) > 50
    assert not wrong


def test_every_declared_dependency_is_pinned() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    declared = re.findall(r'^  "([A-Za-z0-9._-]+)[\[>"]', text, re.MULTILINE)
    normal = {re.split("==", line)[0].lower().replace("_", "-") for line in _pins(REPOSITORY)}
    names = {name.lower().replace("_", "-") for name in declared}
    assert "torch" in names
    assert names - normal == {"vodbench"}  # its own extras


def _pins(repository: Path) -> list[str]:
    return (repository / "constraints.txt").read_text().splitlines()
