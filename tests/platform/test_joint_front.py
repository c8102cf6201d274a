"""Several studies on one front: finding them, what compares, what is drawn once, lines and files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from PIL import Image

from vodbench.errors import UserError
from vodbench.front.curves import curves
from vodbench.front.joint import JointFront, joint_front, joint_json
from vodbench.front.joint_figure import joint_figure
from vodbench.front.joint_picture import joint_png
from vodbench.front.joint_style import looks
from vodbench.trials import configurations, labels, stored_trials, study_folders

Trials = Sequence[dict[str, Any]]

BASE = {"T": 3, "r": 20.0, "keys": "interval"}


def rdn(**changes: Any) -> dict[str, Any]:
    settings = {name: changes.pop(name) for name in list(changes) if name in BASE}
    return {"method": "rdn", "config": {**BASE, **settings}, "knobs": list(settings) or ["T"], **changes}


SINGLE = {"method": "faster-rcnn", "ms": 4.0, "lost": 0.5}
TABLE_T = [SINGLE, *(rdn(T=T, ms=5.0 + T, lost=0.5 / T) for T in (1, 3, 6))]
TABLE_R = [rdn(r=r, ms=8.0 + r / 100, lost=0.3) for r in (10.0, 40.0)] + [rdn(r=20.0, ms=99.0, contended=True)]


@pytest.fixture
def runs(studies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    studies.make(tmp_path / "runs" / "table-t", TABLE_T)
    studies.make(tmp_path / "runs" / "table-r", TABLE_R)
    (tmp_path / "runs" / "table-notes").mkdir()
    return tmp_path


def front_of(*names: str, **options: bool) -> JointFront:
    return joint_front(stored_trials(study_folders(names)), **options)


# ---- finding ------------------------------------------------------------------------------------------------


def test_folders_are_found_by_pattern_path_and_name_below_runs(runs: Path) -> None:
    both = ["runs/table-r", "runs/table-t"]
    assert study_folders(["table-*"]) == both
    assert study_folders(["runs/table-?"]) == both
    assert study_folders(["table-t", "table-*", str(runs / "runs" / "table-r")]) == both[::-1], "each once"
    assert study_folders([f"{runs}/runs/*"]) == [f"{runs}/{folder}" for folder in both]


def test_folders_on_an_object_store_keep_their_scheme(runs: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for folder in ("a-1", "a-2", "b"):
        store.pipe_file(f"/bucket/{folder}/study.yaml", b"x")
    found = study_folders(["memory://bucket/a-*"])
    assert [folder.rpartition("bucket/")[2] for folder in found] == ["a-1", "a-2"]
    assert all(folder.startswith("memory://") and store.exists(f"{folder}/study.yaml") for folder in found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tabel-t", "did you mean 'table-t'"),
        ("none-*", "matches no study folder"),
        ("runs/table-notes", "holds no study.yaml"),
        ("", "empty name"),
    ],
)
def test_names_that_mean_nothing_are_user_errors(runs: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        study_folders([name])


# ---- what is one point --------------------------------------------------------------------------------------


def test_a_trial_of_two_studies_is_one_point_with_the_idle_runtime(runs: Path) -> None:
    (group,) = front_of("table-*").groups
    assert len(group.points) == 6
    (base,) = [p.configuration for p in group.points if p.configuration.config == BASE]
    assert base.studies == ("table-r", "table-t")
    assert (base.mean_ms, base.contended) == (8.0, False)


def test_seeds_are_one_point_at_their_mean(studies: Any, tmp_path: Path) -> None:
    trials = [rdn(seed=seed, ms=ms, lost=lost) for seed, ms, lost in ((0, 10.0, 0.1), (1, 14.0, 0.4))]
    folder = studies.make(tmp_path / "s", [*trials, rdn(seed=2, ms=50.0, lost=0.2, contended=True)])
    stored = stored_trials([str(folder)])
    (configuration,) = configurations(stored)
    assert configuration.seeds == (0, 1, 2)
    assert configuration.map == pytest.approx(np.mean([t.accuracy.map for t in stored]))
    assert configuration.low == pytest.approx(np.mean([t.accuracy.low for t in stored]))
    assert configuration.mean_ms == 12.0, "a busy device's runtime does not count where there is another"
    assert not configuration.contended


def test_the_front_is_that_of_brute_force(runs: Path) -> None:
    (group,) = front_of("table-*").groups
    for point in group.points:
        c = point.configuration
        beaten = any(
            o.map >= c.map and o.mean_ms <= c.mean_ms and (o.map, o.mean_ms) != (c.map, c.mean_ms)
            for o in (other.configuration for other in group.points)
        )
        assert point.on_front != beaten


def test_labels_tell_configurations_apart_and_say_no_more(runs: Path) -> None:
    found = configurations(stored_trials(study_folders(["table-*"])))
    assert sorted(labels(found)) == ["faster-rcnn", "rdn T=1", "rdn T=3", "rdn T=6", "rdn r=10", "rdn r=40"]


def test_a_setting_that_no_study_sweeps_is_said_where_it_differs(studies: Any, tmp_path: Path) -> None:
    trials = [rdn(T=T) for T in (1, 3)] + [rdn(T=1, keys="adaptive", knobs=["T"])]
    (found,) = [configurations(stored_trials([str(studies.make(tmp_path / "s", trials))]))]
    assert sorted(labels(found)) == ["rdn T=1", "rdn T=1 keys=adaptive", "rdn T=3"]


# ---- lines --------------------------------------------------------------------------------------------------


def test_one_knob_at_a_time_gives_a_line_a_knob(runs: Path) -> None:
    (group,) = front_of("table-*").groups
    lines = {curve.label: [c.config[curve.knob] for c in curve.points] for curve in group.curves}
    assert lines == {"rdn along T": [1, 3, 6], "rdn along r": [10.0, 20.0, 40.0]}


def test_a_grid_gives_lines_along_its_longest_knob_only(studies: Any, tmp_path: Path) -> None:
    trials = [rdn(T=T, r=r) for T, r in product((1, 3, 6), (10.0, 20.0))]
    found = configurations(stored_trials([str(studies.make(tmp_path / "s", trials))]))
    drawn = curves(found)
    assert {curve.label for curve in drawn} == {"rdn along T, r=10", "rdn along T, r=20"}
    assert all([c.config["T"] for c in curve.points] == [1, 3, 6] for curve in drawn)


def test_nothing_is_joined_along_words_or_single_points(studies: Any, tmp_path: Path) -> None:
    trials = [rdn(T=1, keys="interval"), rdn(T=1, keys="adaptive"), SINGLE]
    assert curves(configurations(stored_trials([str(studies.make(tmp_path / "s", trials))]))) == []


# ---- what compares ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "study", "said"),
    [
        ({"device": "cuda:0 (A)"}, {}, r"device cuda:0 \(A\) instead of cpu"),
        ({}, {"accuracy": {"protocol": "voc"}}, "protocol voc instead of ilsvrc"),
        ({}, {"data": {"root": "x", "val": "test"}}, "split test instead of val"),
    ],
)
def test_what_does_not_compare_is_said_in_one_line(
    runs: Path, studies: Any, changed: dict[str, Any], study: dict[str, Any], said: str
) -> None:
    studies.make(runs / "runs" / "other", [{**SINGLE, **changed}], **study)
    with pytest.raises(UserError, match=rf"not all trials compare with those of table-t; other \(1 trials\): {said}"):
        front_of("table-t", "other")
    front = front_of("table-t", "other", anyway=True)
    assert front.warning
    assert [len(group.points) for group in front.groups] == [4, 1]
    assert [p.on_front for p in front.groups[1].points] == [True], "a front of its own"
    names = {trace.name for trace in joint_figure(front).data}
    assert {"faster-rcnn (1)", "faster-rcnn (2)"} <= names


def test_studies_without_a_complete_trial_are_a_user_error(runs: Path, studies: Any) -> None:
    (runs / "empty").mkdir()
    (runs / "empty" / "study.yaml").write_text((runs / "runs" / "table-t" / "study.yaml").read_text())
    with pytest.raises(UserError, match="no complete trial"):
        front_of("empty")


# ---- pictures and files -------------------------------------------------------------------------------------


def test_the_figure_shows_every_configuration_once(runs: Path) -> None:
    front = front_of("table-*")
    markers = [trace for trace in joint_figure(front).data if trace.mode == "markers"]
    drawn = sorted(x for trace in markers for x in trace.x)
    assert drawn == sorted(p.configuration.mean_ms for p in front.groups[0].points)
    assert {trace.name for trace in markers} == {"rdn", "faster-rcnn"}


def test_every_method_looks_its_own_way() -> None:
    found = looks([f"m{i}" for i in range(40)])
    assert len({(look.colour, look.symbol) for look in found.values()}) == 40
    assert len({(look.colour, look.marker) for look in found.values()}) == 40


@pytest.mark.parametrize("published", [False, True])
def test_the_picture_is_a_png_with_something_on_it(runs: Path, studies: Any, published: bool) -> None:
    studies.make(
        runs / "runs" / "table-slow",
        [rdn(T=9, ms=900.0)],
        name="slow",
        published=[{"table": "rdn.table4_T", "method": "rdn"}],
    )
    front = front_of("table-*", published=published)
    assert bool(front.published) is published
    image = Image.open(io.BytesIO(joint_png(front)))
    assert image.format == "PNG"
    assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_the_command_draws_all_studies_on_one_plot(runs: Path, run: Run) -> None:
    status, out, _ = run("front", "--studies", "table-t", "table-r", "--json")
    assert status == 0
    printed = json.loads(out)
    assert printed == json.loads((runs / "runs" / "joint" / "front.json").read_text())
    assert printed == joint_json(front_of("table-t", "table-r"))
    assert sum(len(printed["groups"][0][kind]) for kind in ("front", "dominated")) == 6
    for name in ("front.html", "front.png"):
        assert (runs / "runs" / "joint" / name).stat().st_size > 10_000
