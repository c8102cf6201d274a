"""``vodbench bench evaluate`` on a scale that a test can afford."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vodbench.bench import evaluate as bench
from vodbench.cli import app


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NUM_SNIPPETS": 8,
        "FRAMES_TENTH": 4,
        "FRAMES_FULL": 6,
        "DETECTIONS": 20,
        "RESAMPLES": 30,
        "PYCOCOTOOLS_SNIPPETS": 6,
    }.items():
        monkeypatch.setattr(bench, name, value)


def test_the_last_line_is_one_object_with_the_promised_figures() -> None:
    result = CliRunner().invoke(app, ["bench", "evaluate", "--full", "--json"])
    assert result.exit_code == 0, result.exception
    figures = json.loads(result.stdout.splitlines()[-1])
    for name in ("seconds_tenth_vid", "speedup_over_pycocotools", "bootstrap_seconds", "seconds_full_vid"):
        assert figures[name] > 0
    assert figures["speedup_over_pycocotools"] == figures["pycocotools_seconds"] / figures["coco_seconds"]
    assert figures["largest_ap_difference_to_pycocotools"] < 1e-9
    assert (figures["frames_tenth_vid"], figures["frames_full_vid"]) == (32, 48)


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.average_precision
    monkeypatch.setattr(bench, "average_precision", lambda matching: right(matching) + np.float64(1e-6))
    result = CliRunner().invoke(app, ["bench", "evaluate", "--json"])
    assert "AP differs from pycocotools'" in str(result.exception)
