"""Knob spaces: values held against configurations, grids, and what Optuna draws from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from vodbench.errors import UserError, unknown
from vodbench.knobs import AtLeast, MethodConfig, knob, need_in_words
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


@dataclass(frozen=True, kw_only=True)
class Conditional(MethodConfig):
    keys: str = knob("interval", "rule", kind="inference", choices=("interval", "adaptive"))
    interval: int = knob(10, "frames", kind="inference", low=1, needs={"keys": "interval"})
    gamma: float = knob(0.2, "share", kind="inference", low=0, high=1, needs={"keys": "adaptive"})
    rounds: int = knob(1, "rounds of adapting", kind="inference", low=0, needs={"keys": ("adaptive",)})
    rate: float = knob(0.5, "share a round", kind="inference", above=0, needs={"rounds": AtLeast(1)})


def spec_of(name: str) -> MethodSpec:
    configs = {"wide": Config, "bare": Bare, "conditional": Conditional}
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


def test_a_grid_has_no_two_points_that_do_the_same() -> None:
    knobs = {"gamma": [0.1, 0.3], "interval": [5, 10], "keys": ["interval", "adaptive"]}
    points = grid_points(study({"method": "conditional", "knobs": knobs}))
    assert [dict(p.knobs) for p in points] == [
        {"keys": "interval", "interval": 5},
        {"gamma": 0.1, "keys": "adaptive"},
        {"keys": "interval", "interval": 10},
        {"gamma": 0.3, "keys": "adaptive"},
    ]
    assert points[0].config == Conditional(interval=5), "what changes nothing stays as without a sweep"
    assert points[1].config == Conditional(keys="adaptive", gamma=0.1)


def test_what_is_needed_must_itself_matter() -> None:
    knobs = {"keys": ["interval", "adaptive"], "rounds": [0, 2], "rate": [0.25, 0.75]}
    points = grid_points(study({"method": "conditional", "knobs": knobs}))
    assert [dict(p.knobs) for p in points] == [
        {"keys": "interval"},
        {"keys": "adaptive", "rounds": 0},
        {"keys": "adaptive", "rounds": 2, "rate": 0.25},
        {"keys": "adaptive", "rounds": 2, "rate": 0.75},
    ]


def test_entries_that_differ_in_what_changes_nothing_are_one_point() -> None:
    entries = [{"method": "conditional", "settings": {"gamma": gamma}} for gamma in (0.1, 0.9)]
    (point,) = grid_points(study(*entries))
    assert point.config == Conditional(gamma=0.1)
    assert len(grid_points(study(*entries, settings={"keys": "adaptive"}))) == 2


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"gamma": [0.1, 0.3]}, "knob gamma is swept but would change nothing: it needs keys = adaptive, and keys is "),
        ({"keys": ["interval"], "gamma": {"low": 0, "high": 1}}, "it needs keys = adaptive, and no value of keys is"),
        ({"rate": [0.1, 0.2]}, "it needs keys = adaptive, and keys is interval; set or sweep keys"),
        ({"keys": ["adaptive"], "rounds": [0], "rate": [0.1]}, "it needs rounds >= 1, and no value of rounds is that"),
        ({"keys": ["adaptive"], "rounds": {"low": 0, "high": 0}, "rate": [0.1]}, "it needs rounds >= 1"),
    ],
)
def test_a_knob_that_would_never_matter_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        method_spaces(study({"method": "conditional", "knobs": knobs}))
    assert said in str(error.value)
    assert "study 's', conditional: " in str(error.value)


def test_a_draw_asks_only_for_what_matters_and_needed_knobs_first() -> None:
    knobs = {"rate": [0.25, 0.75], "gamma": [0.1], "rounds": [0, 2], "interval": [5], "keys": ["interval", "adaptive"]}
    (entry,) = method_spaces(study({"method": "conditional", "knobs": knobs}))
    for answers, expected in (
        ({"keys": "interval", "interval": 5}, Conditional(interval=5)),
        ({"keys": "adaptive", "gamma": 0.1, "rounds": 0}, Conditional(keys="adaptive", gamma=0.1, rounds=0)),
        (
            {"keys": "adaptive", "gamma": 0.1, "rounds": 2, "rate": 0.75},
            Conditional(keys="adaptive", gamma=0.1, rounds=2, rate=0.75),
        ),
    ):
        asked: list[str] = []

        def suggest(swept: Any, answers: dict[str, Any] = answers, asked: list[str] = asked) -> Any:
            asked.append(swept.name)
            return answers[swept.name]

        point = entry.draw(suggest)
        assert (asked, point.config) == (list(answers), expected)
        drawn = entry.encode(point.config.to_mapping())
        assert drawn is not None
        assert set(drawn) == set(answers)
        assert entry.decode(drawn) == point


def test_a_value_beside_a_step_lies_outside() -> None:
    knobs = {"T": {"low": 2, "high": 8, "step": 3}, "r": {"low": 0.1, "high": 0.5, "step": 0.1}}
    (entry,) = method_spaces(study({"method": "wide", "knobs": knobs}))
    steps = {knob.name: knob for knob in entry.knobs}
    assert [steps["T"].encode(value) for value in (1, 2, 4, 5, 8, 11)] == [None, 2, None, 5, 8, None]
    assert [steps["r"].encode(value) for value in (0.3, 0.35, None)] == [0.3, None, None]


def test_needs_in_words() -> None:
    assert need_in_words("keys", ("adaptive",)) == "keys = adaptive"
    assert need_in_words("stage", ("reg", "sem", "joint")) == "stage = reg, sem or joint"
    assert need_in_words("on", (True,)) == "on = true"
    assert need_in_words("modules", AtLeast(1)) == "modules >= 1"
