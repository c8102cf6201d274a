"""``vodbench bench stream`` at a size of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vodbench.cli import app
from vodbench.errors import UserError
from vodbench_methods.rdn import growth
from vodbench_methods.rdn.config import TINY, RDNConfig
from vodbench_methods.rdn.growth import Growth, draw_growth, measure_growth


def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    app(["bench", "stream", "--T", "2", "--frames", "2", "--json"], standalone_mode=False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["baseline"] == "faster-rcnn"
    assert figures["ratio_to_single_frame"] == pytest.approx(figures["stream_ms"] / figures["single_frame_ms"])
    assert figures["largest_difference_to_uncached"] < 1e-3
    assert figures["stream_stage_ms"]["relation"] > 0
    assert "relation" not in figures["single_frame_stage_ms"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--T", "0"], "--T 0 is not accepted"),
        (["--frames", "0"], "--frames 0 is not accepted"),
        (["--preset", "tny"], "did you mean 'tiny'"),
        (["--plot", "x.png"], "add --growth"),
        (["--growth", "--plot", "nowhere/x.png"], "the folder does not exist"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        app(["bench", "stream", *arguments], standalone_mode=False)


def test_growth_is_measured_for_every_knob_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "VALUES", {"T": (1, 2), "K": (3, 6, 1000), "N_b": (1, 2), "r": (10, 100)})
    config = RDNConfig(**{**TINY, "T": 1})
    done: list[tuple[int, int]] = []
    with torch.inference_mode(False):
        curves = measure_growth(config, torch.device("cpu"), lambda what, count, total: done.append((count, total)))
    assert [(curve.knob, curve.values) for curve in curves] == [
        ("T", (1, 2)),
        ("K", (3, 6)),  # 1000 are more than a frame has
        ("N_b", (1, 2)),
        ("r", (10, 100)),
    ]
    assert all(ms > 0 for curve in curves for ms in curve.milliseconds)
    assert done[-1] == (8, 8)
    draw_growth(curves, str(tmp_path / "growth.png"))
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_polynomials_and_powers_are_recognised() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    coefficients, determination = Growth("T", tuple(values), tuple(3 + 2 * values)).fitted()
    assert (*coefficients, determination) == pytest.approx((3, 2, 1))
    square = Growth("K", tuple(values), tuple(1 + 0.5 * values + 0.25 * values**2))
    coefficients, determination = square.fitted()
    assert (*coefficients, determination) == pytest.approx((1, 0.5, 0.25, 1))
    assert "about 1.0 +0.5 K +0.25 K^2 ms (R2 1.000)" in square.sentence()
    assert square.figures()["coefficients_ms"] == list(coefficients)
    assert Growth("K", tuple(values), tuple(0.5 * values**2)).exponent() == pytest.approx(2)
    assert len(Growth("K", (1.0, 2.0), (3.0, 4.0)).fitted()[0]) == 2, "two points make a line"
