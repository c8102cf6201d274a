"""Fronts from trial records: points, JSON, table, interactive figure and picture."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vodbench.errors import UserError
from vodbench.front.figure import front_figure
from vodbench.front.picture import front_png, place_captions
from vodbench.front.points import Point, front_json, load_trials, measured_points
from vodbench.front.style import staircase
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.studies.constraints import parse_constraint
from vodbench.studies.published import PublishedPoint

PUBLISHED = [
    PublishedPoint(
        label="rdn T=3", method="rdn", settings={"T": 3}, map=0.803, runtime_ms=90.1, source="paper, table 4"
    )
]


def record(name: str, runtime_ms: float, mean_ap: float, **changes: Any) -> TrialRecord:
    contended = changes.pop("contended", False)
    values: dict[str, Any] = {
        "fingerprint": name,
        "study": "s",
        "method": "rdn",
        "paper": "p",
        "config": {"T": 3},
        "knobs": {"T": 3, "r": 20.0},
        "seed": 0,
        "status": "complete",
        "accuracy": Accuracy(protocol="ilsvrc", map=mean_ap, low=mean_ap - 0.1, high=mean_ap + 0.05),
        "runtime": Runtime(
            median_ms=runtime_ms, p95_ms=runtime_ms, p99_ms=runtime_ms, mean_ms=runtime_ms, low_ms=runtime_ms - 0.5,
            high_ms=runtime_ms + 0.5, fps=1000 / runtime_ms, stage_ms={"backbone": 1.0}, decode_ms=0.1, gflops=None,
            peak_memory_mb=1.0, latency_frames=3, num_frames=10, device="cpu", threads=1, contended=contended,
        ),
    }  # fmt: skip
    return TrialRecord(**{**values, **changes})


@pytest.fixture
def points() -> list[Point]:
    records = [record("a", 10, 0.5), record("b", 20, 0.7), record("c", 15, 0.4), record("d", 30, 0.9, contended=True)]
    return measured_points([*records, record("e", 1, 1.0, status="failed", accuracy=None, runtime=None, reason="why")])


def test_failed_and_dominated_trials_are_not_on_the_front(points: list[Point]) -> None:
    assert [(p.record.fingerprint, p.on_front) for p in points] == [("a", True), ("c", False), ("b", True), ("d", True)]
    assert points[0].label == "rdn T=3 r=20"


def test_frames_between_key_frames_do_not_make_a_method_free() -> None:
    """Nine of ten frames cost nothing: the median is 0, and a frame still costs a tenth of a key frame."""
    copied, every = record("copied", 4, 0.5), record("every", 3, 0.6)
    assert copied.runtime is not None
    copied = dataclasses.replace(copied, runtime=dataclasses.replace(copied.runtime, median_ms=0.0))
    points = measured_points([copied, every])
    assert [(p.record.fingerprint, p.on_front) for p in points] == [("every", True), ("copied", False)]


def test_the_staircase_never_promises_what_a_budget_cannot_buy(points: list[Point]) -> None:
    xs, ys = staircase(points)
    for budget in np.linspace(10, 30, 50):
        attainable = max(p.accuracy.map for p in points if p.runtime.median_ms <= budget)
        promised = max(y for x, y in zip(xs, ys, strict=True) if x <= budget)
        assert promised == attainable


BUDGET = [parse_constraint("runtime_ms <= 20"), parse_constraint("map >= 0.45")]


def test_points_say_whether_they_keep_to_the_constraints() -> None:
    records = [record("a", 10, 0.4), record("b", 15, 0.5), record("c", 20, 0.6), record("d", 30, 0.9)]
    marked = measured_points(records, BUDGET)
    assert [(p.on_front, p.feasible) for p in marked] == [(True, False), (True, True), (True, True), (True, False)]
    asked = measured_points([*records, record("e", 5, 0.44), record("f", 12, 0.55)], BUDGET, feasible_only=True)
    # e beats f on speed and breaks a constraint; f beats b; c is the most accurate of those that keep to both.
    assert [p.record.fingerprint for p in asked if p.on_front] == ["f", "c"]
    assert [row["feasible"] for row in front_json(marked)["front"]] == [False, True, True, False]


def test_what_breaks_a_constraint_is_drawn_as_a_cross() -> None:
    records = [record("a", 10, 0.5), record("b", 30, 0.9, contended=True), record("c", 40, 0.2)]
    figure = front_figure(measured_points(records, BUDGET))
    symbols = [symbol for trace in figure.data if trace.mode == "markers" for symbol in trace.marker.symbol]
    assert sorted(symbols) == ["circle", "x", "x-open"]
    assert sum("breaks a constraint" in text for trace in figure.data for text in trace.text or ()) == 2
    plain, crossed = (front_png(measured_points(records, bounds)) for bounds in ((), BUDGET))
    assert plain != crossed


def test_json_separates_front_from_dominated(points: list[Point]) -> None:
    plain = json.loads(json.dumps(front_json(points)))
    assert [p["trial"] for p in plain["front"]] == ["a", "b", "d"]
    assert [p["trial"] for p in plain["dominated"]] == ["c"]
    assert plain["front"][2]["contended"] is True


def test_figure_draws_every_trial_with_error_bars_and_published_points_apart(points: list[Point]) -> None:
    figure = front_figure(points, PUBLISHED)
    markers = [trace for trace in figure.data if trace.mode == "markers"]
    drawn = sorted(x for trace in markers if trace.xaxis in (None, "x") for x in trace.x)
    assert drawn == [10, 15, 20, 30]
    by_name = {trace.name: trace for trace in markers}
    np.testing.assert_allclose(by_name["rdn"].error_y.array, 0.05, atol=1e-9)
    np.testing.assert_allclose(by_name["rdn"].error_y.arrayminus, 0.1, atol=1e-9)
    assert list(by_name["rdn"].marker.symbol) == ["circle", "circle", "circle-open"]
    assert by_name["rdn (published)"].xaxis == "x2"
    assert list(by_name["rdn (published)"].x) == [90.1]


@pytest.mark.parametrize("published", [[], PUBLISHED])
def test_picture_is_a_png_with_something_on_it(points: list[Point], published: list[PublishedPoint]) -> None:
    image = Image.open(io.BytesIO(front_png(points, published, "title")))
    assert image.format == "PNG"
    assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_points_at_one_place_have_one_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    annotate = Axes.annotate

    def noted(axes: Axes, text: str, *args: Any, **kwargs: Any) -> Any:
        written.append(text)
        return annotate(axes, text, *args, **kwargs)

    monkeypatch.setattr(Axes, "annotate", noted)
    twins = [record(f"t{n}", 10, 0.5, knobs={"T": n}) for n in range(3)]
    front_png(measured_points([*twins, record("u", 20, 0.7, knobs={"T": 9})]))
    assert written == ["T=0 and 2 more", "T=9"]


def test_a_caption_makes_way_for_a_point_that_is_not_on_the_front() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.errorbar([0.55], [0.53], xerr=0.01, fmt="o")
    caption = axes.annotate("K=12 T=6 r=20", (0.5, 0.5), xytext=(6, 5), textcoords="offset points")
    place_captions(figure, [axes])
    assert not caption.get_window_extent().contains(*axes.transData.transform((0.55, 0.53)))


def test_an_interval_that_misses_its_estimate_is_drawn_without_a_negative_bar(points: list[Point]) -> None:
    odd = record("odd", 12, 0.5, accuracy=Accuracy(protocol="ilsvrc", map=0.5, low=0.52, high=0.6))
    front_png(measured_points([odd]))
    (markers,) = [t for t in front_figure(measured_points([odd])).data if t.mode == "markers"]
    assert list(markers.error_y.arrayminus) == [0.0]


def test_records_come_back_from_disk(tmp_path: Path) -> None:
    for item in (record("a", 10, 0.5, started="2"), record("b", 20, 0.7, started="1")):
        folder = tmp_path / "trials" / item.fingerprint
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(item.to_json())
    assert [r.fingerprint for r in load_trials(str(tmp_path))] == ["b", "a"]
    assert load_trials(str(tmp_path))[1] == record("a", 10, 0.5, started="2")


def test_bad_folders_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        load_trials(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no trials"):
        load_trials(str(tmp_path))
    (tmp_path / "trials" / "x").mkdir(parents=True)
    (tmp_path / "trials" / "x" / "trial.json").write_text('{"schema": 1, "fing')
    with pytest.raises(UserError, match=r"trial\.json is damaged"):
        load_trials(str(tmp_path))
