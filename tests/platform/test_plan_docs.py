"""The cost table of the papers' studies is what the command beside it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_line import Run

from vodbench.studies import load_study, matching_studies, shipped_studies

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "plan.md").read_text()


def documented() -> list[str]:
    """The words of the command that made the table."""
    (block,) = [
        code for code in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) if "--markdown" in code and "docs/" in code
    ]
    return shlex.split(block.replace("\\\n", " "))


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """(studies, options) of ``vodbench plan STUDY... --option ...``."""
    assert words[:2] == ["vodbench", "plan"]
    first = next(number for number, word in enumerate(words) if word.startswith("--"))
    return words[2:first], words[first:]


def test_every_study_of_the_papers_scale_has_its_row() -> None:
    named, _ = split(documented())
    papers = [name for name in shipped_studies() if load_study(name).preset == "paper"]
    assert len(papers) > 20
    assert matching_studies(named) == papers
    assert re.findall(r"(?m)^\| ([a-z]\S+-\S+) \|", TEXT) == papers


def test_a_row_is_what_the_command_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, options = split(documented())
    status, table, _ = run("plan", "rdn-table6", *options)
    lines = table.splitlines()
    assert status == 0
    assert len(lines) == 3
    assert all(line in TEXT.splitlines() for line in lines)


@pytest.mark.slow
def test_the_table_is_what_the_command_says(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status, table, _ = run(*documented()[1:])
    assert status == 0
    assert table.strip() in TEXT
