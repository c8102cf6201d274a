"""``vodbench bench sweep`` at a size of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.bench import many_settings
from vodbench.bench.many_settings import table_settings
from vodbench.cli import app
from vodbench.detections import DetectionSet
from vodbench.errors import UserError
from vodbench.spec import Detections
from vodbench.streaming import SnippetResult


@pytest.mark.parametrize(
    ("preset", "T", "K"),
    [
        ("paper", [3, 6, 9, 12, 15, 18, 21, 24], [25, 50, 75, 100, 150, 200, 250, 300]),
        ("tiny", [1, 2, 3, 4, 6, 8, 10, 12], [2, 4, 6, 9, 12, 16, 20, 24]),
    ],
)
def test_the_settings_are_those_of_the_tables(preset: str, T: list[int], K: list[int]) -> None:
    values = [config.to_mapping() for config in table_settings(preset)]
    assert [v["T"] for v in values[:8]] == T
    assert [v["K"] for v in values[8:16]] == K
    assert [v["r"] for v in values[16:]] == [10, 20, 30, 40, 50, 60, 80, 100]
    assert len({json.dumps({**v, "T": 0, "K": 0, "r": 0}) for v in values}) == 1


def test_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[DetectionSet] = []
    monkeypatch.setattr(many_settings, "evaluate", lambda truth, found, *rest: scored.append(found))
    size = ["--preset", "tiny", "--size", "48", "--frames", "3", "--distinct", "0"]
    app(["bench", "sweep", *size, "--one-by-one", "--trials", "0", "--json"], standalone_mode=False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["settings"] == 24
    assert len(scored) == 1 + 24 + 24
    assert figures["cost_in_evaluations"] == pytest.approx(
        figures["sweep_cpu_seconds"] / figures["evaluation_cpu_seconds"]
    )
    assert figures["cost_in_evaluations_one_by_one"] == pytest.approx(
        figures["sweep_one_by_one_cpu_seconds"] / figures["evaluation_cpu_seconds"]
    )
    for together, alone in zip(scored[1:25], scored[25:], strict=True):
        assert len(together.scores)
        assert np.array_equal(together.scores, alone.scores)


def test_parts_add_up() -> None:
    """Of a snippet in which frames come again: their encoding counts each time, and is done once."""
    costs = many_settings.measure_settings(
        "tiny", 48, 6, torch.device("cpu"), lambda what: None, distinct=2, one_by_one=False
    )
    figures = costs.figures()
    for name in ("evaluation", "sweep"):
        shares = {part: figures[f"{name}_share_{part}"] for part in ("encoding", "relation", "post", "scoring")}
        assert min(shares.values()) > 0
        assert sum(shares.values()) == pytest.approx(1)
    assert figures["cost_in_evaluations"] == pytest.approx(costs.together.total / costs.one.total)
    assert "cost_in_evaluations_one_by_one" not in figures


def test_a_frame_that_comes_again_is_counted_but_not_encoded() -> None:
    calls = []

    class Encoder:
        def encode(self, image: Any, config: Any) -> str:
            calls.append(image)
            return f"encoded {len(calls)}"

    method, images = Encoder(), [np.zeros((1, 1, 3), np.uint8) for _ in range(2)]
    encodings = many_settings._Encodings(method)
    assert [method.encode(images[n % 2], None) for n in range(6)] == ["encoded 1", "encoded 2"] * 3
    assert len(calls) == 2
    assert encodings.repeated == pytest.approx(2 * encodings.spent)
    encodings.begin()
    assert method.encode(images[0], None) == "encoded 3"


def test_a_difference_is_not_measured() -> None:
    found = Detections(np.zeros((1, 4), np.float32), np.array([0.5], np.float32), np.array([1], np.int64))
    other = replace(found, scores=np.nextafter(found.scores, np.float32(1)))
    results = [SnippetResult([found], [{}])]
    many_settings._assert_same(results, results)
    for wrong in (other, replace(found, labels=np.array([2], np.int64)), Detections.empty()):
        with pytest.raises(RuntimeError, match="found something else"):
            many_settings._assert_same(results, [SnippetResult([wrong], [{}])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "8"], "--size 8 is not accepted"),
        (["--frames", "1"], "--frames 1 is not accepted"),
        (["--trials", "-1"], "--trials -1 is not accepted"),
        (["--repeats", "0"], "--repeats 0 is not accepted"),
        (["--preset", "tny"], "did you mean 'tiny'"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        app(["bench", "sweep", *arguments], standalone_mode=False)


@pytest.mark.slow
def test_empty_trials_run_here_and_in_bare_tune(tmp_path: Path) -> None:
    from vodbench.bench.empty_trials import platform_seconds, tune_seconds
    from vodbench.cluster import start_ray, stop_ray
    from vodbench.sweeps.folder import StudyFolder

    start_ray(num_cpus=2)
    try:
        assert platform_seconds(2, tmp_path / "ours") > 0
        assert tune_seconds(2, tmp_path / "bare") > 0
    finally:
        stop_ray()
    records = StudyFolder(str(tmp_path / "ours")).records()
    assert [record.status for record in records.values()] == ["complete", "complete"]
