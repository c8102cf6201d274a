"""Knob spaces: values held against configurations, grids, and what Optuna draws from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import MethodSpec
from vodbench.studies import grid_points, method_spaces, parse_study, space


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports each side", kind="inference", low=1)
    r: float = knob(20.0, "share kept", kind="inference", above=0, high=100)
    N_b: int = knob(2, "modules", low=1)
    sizes: tuple[float, ...] = knob((1.0,), "sizes")
    linking: str = knob("none", "linking", kind="inference", choices=("none", "seq-nms"))


@dataclass(frozen=True, kw_only=True)
class Bare(MethodConfig):
    width: int = knob(3, "width", low=1)


def spec_of(name: str) -> MethodSpec:
    configs = {"wide": Config, "bare": Bare}
    if name not in configs:
        raise unknown("method", name, configs)
    unused: Any = None
    return MethodSpec(
        name=name,
        summary="",
        paper="",
        config=configs[name],
        presets={"paper": {}, "tiny": {"N_b": 1} if name == "wide" else {}},
        build=unused,
        stages=unused,
        latency_frames=unused,
    )


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "method_spec", spec_of)


def study(*methods: dict[str, Any], **more: Any) -> Any:
    return parse_study({"name": "s", "title": "t", "methods": list(methods), **more}, "s")


def test_grid_is_every_combination_with_settings_in_order() -> None:
    given = study(
        {"method": "bare"},
        {"method": "wide", "settings": {"linking": "seq-nms"}, "knobs": {"T": [2, 1, 2], "r": [10, 20.0]}},
        preset="tiny",
        settings={"width": 5, "r": 50},
    )
    points = grid_points(given)
    assert [(p.method, dict(p.knobs)) for p in points] == [
        ("bare", {}),
        ("wide", {"T": 1, "r": 10.0}),
        ("wide", {"T": 1, "r": 20.0}),
        ("wide", {"T": 2, "r": 10.0}),
        ("wide", {"T": 2, "r": 20.0}),
    ]
    assert points[0].config == Bare(width=5)
    assert points[1].config == Config(T=1, r=10, N_b=1, linking="seq-nms")


def test_the_same_setting_reached_twice_is_one_point() -> None:
    twice = {"method": "wide", "knobs": {"T": [3, 4]}}
    assert len(grid_points(study(twice, {"method": "wide"}))) == 2


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"method": "wides"}, "did you mean 'wide'"),
        ({"method": "wide", "knobs": {"t": [1]}}, "unknown knob 't'"),
        ({"method": "wide", "settings": {"N_B": 1}}, "did you mean 'N_b'"),
        ({"method": "wide", "knobs": {"T": [1, 0]}}, "T = 0 is not accepted"),
        ({"method": "wide", "knobs": {"T": [-2]}}, "T = -2 is not accepted"),
        ({"method": "wide", "knobs": {"r": [100.5]}}, "r = 100.5 is not accepted"),
        ({"method": "wide", "knobs": {"r": {"low": 0, "high": 50}}}, "r = 0.0 is not accepted"),
        ({"method": "wide", "knobs": {"T": {"low": 1.5, "high": 3}}}, "T = 1.5 is not accepted"),
        ({"method": "wide", "knobs": {"T": {"low": 1, "high": 3, "step": 0.5}}}, "must be an integer"),
        ({"method": "wide", "knobs": {"linking": ["tubes"]}}, "linking = 'tubes' is not accepted"),
        ({"method": "wide", "settings": {"T": 2}, "knobs": {"T": [1]}}, "keep one of them"),
    ],
)
def test_a_bad_knob_is_named_before_anything_runs(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        method_spaces(study(entry))
    assert said in str(error.value)


def test_unknown_common_setting_and_preset_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'width'"):
        method_spaces(study({"method": "bare"}, settings={"widht": 1}))
    with pytest.raises(UserError, match="unknown preset 'tinny': did you mean 'tiny'"):
        method_spaces(study({"method": "bare"}, preset="tinny"))


def test_a_range_in_a_grid_needs_a_step_and_then_has_both_ends() -> None:
    with pytest.raises(UserError, match="step"):
        grid_points(study({"method": "wide", "knobs": {"T": {"low": 1, "high": 3}}}))
    points = grid_points(study({"method": "wide", "knobs": {"r": {"low": 0.1, "high": 0.5, "step": 0.1}}}))
    assert [p.knobs["r"] for p in points] == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_an_endless_grid_is_refused_before_it_is_built() -> None:
    huge = {"method": "wide", "knobs": {"T": {"low": 1, "high": 1e6, "step": 1}, "N_b": list(range(1, 9))}}
    with pytest.raises(UserError, match="more than 100000 points"):
        grid_points(study(huge))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("T", [9, 1, 4]),
        ("T", {"low": 2, "high": 8, "step": 3}),
        ("r", {"low": 1, "high": 100, "log": True}),
        ("linking", ["seq-nms", "none"]),
        ("sizes", [[1, 2], [3.0]]),
    ],
)
def test_what_optuna_draws_decodes_to_the_knob_and_back(name: str, values: Any) -> None:
    optuna = pytest.importorskip("optuna")
    (entry,) = method_spaces(study({"method": "wide", "knobs": {name: values}}))
    (swept,) = entry.knobs
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        drawn = sampler.ask({name: swept.distribution()}).params[name]
        value = entry.point({name: swept.decode(drawn)}).knobs[name]
        assert swept.encode(value) == drawn
        assert not isinstance(values, list) or value in [entry.point({name: v}).knobs[name] for v in values]
    assert swept.encode(10**9 if name in "Tr" else "nothing") is None
