"""``vodbench bench linking`` on a snippet that a test can afford."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from vodbench.cli import app
from vodbench_methods.linking import bench, tube

SMALL = ["bench", "linking", "--frames", "12", "--detections", "20", "--classes", "2"]


def test_the_last_line_is_one_object_with_the_promised_figures() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"])
    assert result.exit_code == 0, result.exception
    figures = json.loads(result.stdout.splitlines()[-1])
    for name in ("seq_nms", "tube", "blr"):
        assert figures[f"{name}_seconds"] > 0
        assert figures[f"{name}_speedup"] == figures[f"{name}_plain_seconds"] / figures[f"{name}_seconds"]
        assert figures[f"{name}_largest_score_difference"] < 1e-9
    assert figures["tube_boxes_kept"] == figures["blr_boxes_kept"] == 12 * 20
    assert 0 < figures["seq_nms_boxes_kept"] < 12 * 20


def test_a_table_without_json() -> None:
    result = CliRunner().invoke(app, SMALL)
    assert result.exit_code == 0, result.exception
    assert "seq-nms" in result.output


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WAYS", {"tube": (tube, lambda frames: [found.unlinked() for found in frames])})
    result = CliRunner().invoke(app, SMALL)
    assert "tube differs from its plain reading" in str(result.exception)


@pytest.mark.parametrize("option", ["--frames", "--detections", "--classes", "--lent"])
def test_numbers_below_one_are_refused(option: str) -> None:
    result = CliRunner().invoke(app, [*SMALL, option, "0"])
    assert f"{option} 0 is not accepted: an integer in [1, inf)" in str(result.exception)
