"""Study files: strict reading, overrides, published figures, and every shipped file against the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vodbench.errors import UserError
from vodbench.records import TrialRecord
from vodbench.studies import (
    list_studies,
    load_study,
    method_spaces,
    parse_study,
    published_points,
    shipped_studies,
    study_scales,
)
from vodbench_methods.detection.config import BACKBONES

SMALLEST: dict[str, Any] = {"name": "s", "title": "t", "methods": [{"method": "m", "knobs": {"T": [1, 2]}}]}


def write(folder: Path, values: Any) -> str:
    path = folder / "study.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return str(path)


def test_defaults_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    assert load_study(path).search.sampler == "grid"
    changed = load_study(
        path, {"search.sampler": "tpe", "search.trials": 5, "methods.m.knobs.T": [4], "methods.0.settings.a": 1}
    )
    assert (changed.search.sampler, changed.search.trials) == ("tpe", 5)
    assert changed.methods[0].knobs == {"T": (4,)}
    assert changed.methods[0].settings == {"a": 1}
    assert parse_study(changed.to_mapping(), "again") == changed


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"serch.trials": 1}, "unknown key 'serch': did you mean 'search'?"),
        ({"search.sampler": "tp"}, "search.sampler = 'tp'"),
        ({"search.sampler": "tpe"}, "'tpe' needs a number of trials"),
        ({"search.trials": 0}, "search.trials = 0"),
        ({"accuracy.snippets": 0}, "accuracy.snippets = 0"),
        ({"accuracy.protocol": "pascal"}, "accuracy.protocol = 'pascal'"),
        ({"methods.m.knobs.T": 3}, "[1, 2]"),
        ({"methods.m.knobs.T": []}, "[1, 2]"),
        ({"methods.m.knobs.T": {"low": 3}}, "high' is missing"),
        ({"methods.m.knobs.T": {"low": 3, "high": 1}}, "swap them"),
        ({"methods.m.knobs.T": {"low": 0, "high": 1, "log": True}}, "low > 0"),
        ({"methods.m.knobs.T": {"low": 1, "hihg": 3}}, "did you mean 'high'?"),
        ({"methods.q.knobs.T": [3]}, "unknown method 'q'"),
        ({"name.x": 1}, "'name' is a value"),
        ({"seeds": [1, 1]}, "repeat"),
        ({"seeds": []}, "seeds = []"),
        ({"name": "Not A Name"}, "name = 'Not A Name'"),
        ({"methods": []}, "methods = []"),
    ],
)
def test_a_bad_value_is_one_clear_line(tmp_path: Path, overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        load_study(write(tmp_path, SMALLEST), overrides)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "said"), [("- 1", "not keys and values"), ("a: [", "not valid YAML")])
def test_a_file_that_is_no_study(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_study(write(tmp_path, text))


def test_unknown_name_suggests_and_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_study("demmo")
    with pytest.raises(UserError, match="does not exist"):
        load_study(str(tmp_path / "none.yaml"))


def test_titles_are_one_line_and_published_figures_are_no_study() -> None:
    titles = list_studies()
    assert {"demo", "realvid", "rdn-table4", "rdn-table5", "rdn-table6", "rdn-table7"} <= set(titles)
    assert "published" not in titles
    assert all(title and "\n" not in title for title in titles.values())


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in sorted(shipped_studies()) for scale in (None, *study_scales(name))]
)
def test_every_shipped_study_holds_against_the_registry(name: str, scale: str | None) -> None:
    study = load_study(name, scale=scale)
    assert study.name == (name if scale is None else f"{name}-{scale}")
    assert scale is None or study.data.generate, "a scale other than the paper's runs as it stands"
    spaces = method_spaces(study)
    points = [point for space in spaces for point in space.grid()]
    assert len(points) == len({(p.method, str(p.config)) for p in points})
    published_points(study)


def test_a_scale_replaces_sections_key_by_key(tmp_path: Path) -> None:
    scales = {"small": {"preset": "tiny", "runtime": {"snippets": 1}, "seeds": [1, 2]}}
    path = write(tmp_path, {**SMALLEST, "runtime": {"snippets": 9, "threads": 3}, "scales": scales})
    own, small = load_study(path), load_study(path, {"runtime.threads": 2}, scale="small")
    assert load_study(path, scale="paper") == own
    assert (own.preset, own.runtime.snippets, own.seeds) == ("paper", 9, (0,))
    assert (small.preset, small.runtime.snippets, small.runtime.threads, small.seeds) == ("tiny", 1, 2, (1, 2))
    assert study_scales(path) == ("small",)


@pytest.mark.parametrize(
    ("scales", "scale", "said"),
    [
        ({"small": {}}, "smal", "unknown scale 'smal': did you mean 'small'? accepted: paper, small"),
        ({}, "small", "unknown scale 'small': accepted: none"),
        ({"small": {"presett": "tiny"}}, "small", "did you mean 'preset'"),
        ([1], None, "'scales' must hold a section for each scale"),
    ],
)
def test_a_wrong_scale_is_one_clear_line(tmp_path: Path, scales: Any, scale: str | None, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_study(write(tmp_path, {**SMALLEST, "scales": scales}), scale=scale)
    assert said in str(error.value)


def test_published_backbones_are_spelt_as_ours() -> None:
    points = published_points(load_study("rdn-table1"))
    assert [p.settings["backbone"] for p in points] == ["resnet101", "resnext101_64x4d"]
    assert all(p.settings["backbone"] in BACKBONES for p in points)


def test_demo_sweeps_what_the_main_job_asks_for() -> None:
    spaces = method_spaces(load_study("demo"))
    points = [point for space in spaces for point in space.grid()]
    trainings = {(p.method, str(p.config.training_settings())) for p in points}
    rdn = [p for p in points if p.method == "rdn"]
    assert len({str(p.config.inference_settings()) for p in rdn}) >= 12
    assert len([t for t in trainings if t[0] == "rdn-basic"]) == 2


def test_published_tables_become_points() -> None:
    points = published_points(load_study("rdn-table4"))
    assert [p.settings["T"] for p in points] == [3, 6, 9, 12, 15, 18, 21, 24]
    best = points[5]
    assert (best.map, best.runtime_ms, best.label) == (0.818, 94.2, "rdn T=18")
    assert "table4_T" in best.source
    record = TrialRecord(
        fingerprint="f", study="s", method="rdn", paper="", config={"T": 18, "K": 75}, knobs={}, seed=0, status="failed"
    )
    assert [p.label for p in points if p.matches(record)] == ["rdn T=18"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ({"table": "rnd.table4_T"}, "did you mean 'rdn'"),
        ({"table": "rdn.table4"}, "did you mean 'table4_T'"),
        ({"table": "rdn.table4_T"}, "does not name its method"),
        ({"table": "rdn.table1_end_to_end", "where": {"methd": "rdn"}}, "did you mean 'method'"),
    ],
)
def test_a_published_reference_that_is_not_there(reference: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        published_points(parse_study({**SMALLEST, "published": [reference]}, "s"))


def test_rows_are_picked_by_their_columns_and_fps_becomes_milliseconds() -> None:
    where = {"table": "semi_dff.table1_labels_on_images_only", "where": {"method": "r-fcn-copy"}}
    (point,) = published_points(parse_study({**SMALLEST, "published": [where]}, "s"))
    assert point.method == "r-fcn-copy"
    assert point.runtime_ms == pytest.approx(1000 / 60)


def test_a_row_is_chosen_by_a_column_that_others_of_its_table_lack() -> None:
    where = {"method": "semi-dff", "key_frame_interval": 5}
    table = {"table": "semi_dff.table4_labels_on_images_and_videos", "where": where}
    (point,) = published_points(parse_study({**SMALLEST, "published": [table]}, "s"))
    assert point.map == pytest.approx(0.7359)
    with pytest.raises(UserError, match="did you mean 'key_frame_interval'"):
        published_points(parse_study({**SMALLEST, "published": [{**table, "where": {"key_frame_intervl": 5}}]}, "s"))
