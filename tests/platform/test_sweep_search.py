"""What Optuna is told and proposes, without Ray: conditional knobs, constraints, samplers, continuation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.spec import MethodSpec
from vodbench.studies import parse_study, space, violated
from vodbench.studies.constraints import FIGURES, parse_constraint
from vodbench.sweeps import plan as planning
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.optuna_space import OptunaSpace
from vodbench.sweeps.places import objectives
from vodbench.sweeps.search import StudySearch, jobs_of
from vodbench.sweeps.steps import TrialContext, TrialJob

GP = pytest.param("gp", marks=pytest.mark.slow)  # a second a proposal
SAMPLERS = ("random", "tpe", "nsga2", GP)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    size: int = knob(10, "cost and gain", kind="inference", low=1, high=100)
    keys: str = knob("interval", "rule", kind="inference", choices=("interval", "adaptive"))
    interval: int = knob(10, "frames", kind="inference", low=1, needs={"keys": "interval"})
    gamma: float = knob(0.2, "share", kind="inference", low=0, high=1, needs={"keys": "adaptive"})


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    unused: Any = None

    def spec_of(name: str) -> MethodSpec:
        return MethodSpec(name=name, summary="", paper="", config=Config, presets={"paper": {}}, build=unused,
                          stages=unused, latency_frames=unused)  # fmt: skip

    monkeypatch.setattr(space, "method_spec", spec_of)
    monkeypatch.setattr(planning, "method_spec", spec_of)


CONDITIONAL = {
    "size": {"low": 1, "high": 100},
    "keys": ["interval", "adaptive"],
    "interval": [2, 5, 10],
    "gamma": {"low": 0.0, "high": 1.0},
}


def context(
    folder: Path, *, knobs: Any = CONDITIONAL, seeds: Any = (0,), settings: Any = None, **search: Any
) -> TrialContext:
    study = parse_study(
        {
            "name": "planted",
            "title": "t",
            "methods": [{"method": "m", "settings": settings or {}, "knobs": knobs}],
            "seeds": list(seeds),
            "search": {"sampler": "tpe", "trials": 40, **search},
        },
        "planted",
    )
    return TrialContext(study, DataSource(root="nowhere"), "data", str(folder))


def record(job: TrialJob, second: int = 0) -> TrialRecord:
    """Larger is slower and more accurate; adaptive key frames are better near gamma 0.3."""
    config: Any = job.config
    bonus = -abs(config.gamma - 0.3) if config.keys == "adaptive" else -0.01 * config.interval
    value = 0.5 + 0.004 * config.size + 0.1 * bonus + 0.01 * job.seed
    return TrialRecord(
        fingerprint=job.fingerprint, study="planted", method=job.method, paper="", config=config.to_mapping(),
        knobs=job.knobs, seed=job.seed, status="complete", data_fingerprint="data",
        accuracy=Accuracy(protocol="ilsvrc", map=value, low=value - 0.1, high=value + 0.1),
        runtime=runtime(float(config.size)), started=f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00",
    )  # fmt: skip


def runtime(ms: float, **changes: Any) -> Runtime:
    values = Runtime(
        median_ms=ms, p95_ms=2 * ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms, stage_ms={},
        decode_ms=1, gflops=None, peak_memory_mb=64, latency_frames=3, num_frames=9, device="cpu", threads=1,
        contended=False,
    )  # fmt: skip
    return replace(values, **changes)


def run(search: StudySearch, folder: Path, trials: int) -> list[TrialRecord]:
    """As Tune does with one trial at a time; fewer records where the search ends before."""
    done: list[TrialRecord] = []
    for number in range(trials):
        suggested = search.suggest(f"{number}")
        if not isinstance(suggested, dict):
            break
        for job in jobs_of(suggested):
            done.append(record(job, len(done)))
            StudyFolder(str(folder)).write_record(done[-1])
        search.on_trial_complete(f"{number}", {})
        for known in done[-len(jobs_of(suggested)) :]:
            search.remember(known)
    return done


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "gp"])
def test_only_what_matters_is_drawn_and_nothing_runs_twice(tmp_path: Path, sampler: str) -> None:
    count = 8 if sampler == "gp" else 20
    search = StudySearch(context(tmp_path, sampler=sampler, trials=20), [])
    done = run(search, tmp_path, count)
    assert len({r.fingerprint for r in done}) == count
    for one in done:
        assert ("gamma" in one.knobs, "interval" in one.knobs) == (
            one.config["keys"] == "adaptive",
            one.config["keys"] == "interval",
        )
        assert one.config["gamma"] == 0.2 or "gamma" in one.knobs, "what is not drawn stays as it is without a sweep"
    assert {r.config["keys"] for r in done} == {"interval", "adaptive"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_tries_every_point_of_a_small_space_and_ends(tmp_path: Path, sampler: str) -> None:
    knobs = {"size": [1, 2], "keys": ["interval", "adaptive"], "interval": [2, 5], "gamma": [0.1, 0.3, 0.5]}
    done = run(StudySearch(context(tmp_path, knobs=knobs, sampler=sampler), []), tmp_path, 40)
    assert len({r.fingerprint for r in done}) == len(done) == 2 * (2 + 3)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", GP])
def test_a_search_under_constraints_looks_where_they_are_kept(tmp_path: Path, sampler: str) -> None:
    """The faster tenth of the space is feasible: of the second half of the trials, many more than a tenth are."""
    bound, knobs = "runtime_ms <= 10", {"size": {"low": 1, "high": 100}, "gamma": CONDITIONAL["gamma"]}

    def found(folder: Path, **search: Any) -> list[bool]:
        told = context(folder, knobs=knobs, settings={"keys": "adaptive"}, sampler=sampler, trials=40, **search)
        done = run(StudySearch(told, []), folder, 16 if sampler == "gp" else 40)
        return [not violated(r, [parse_constraint(bound)]) for r in done]

    bounded, free = found(tmp_path / "a", constraints=[bound]), found(tmp_path / "b")
    later = len(bounded) // 2
    assert sum(bounded[later:]) > 2 * sum(free[later:])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_continued_search_knows_constraints_and_points_of_its_records(tmp_path: Path, sampler: str) -> None:
    told = context(tmp_path, sampler=sampler, trials=16, constraints=["runtime_ms <= 50", "map >= 0.6"], seeds=(0, 4))
    before = run(StudySearch(told, []), tmp_path, 6)
    continued = StudySearch(told, before)
    assert (continued.num_known, len(before)) == (6, 12)
    after = run(continued, tmp_path, 2)
    assert len(after) == 4
    assert not {r.fingerprint for r in after} & {r.fingerprint for r in before}


def test_records_beside_the_space_are_no_history(tmp_path: Path) -> None:
    wide = run(StudySearch(context(tmp_path, seed=5), []), tmp_path, 10)
    narrow = context(tmp_path, knobs={"size": {"low": 1, "high": 50}})
    as_base = [r for r in wide if r.config == {**r.config, "keys": "interval", "interval": 10}]
    assert StudySearch(narrow, wide).num_known == len([r for r in as_base if r.config["size"] <= 50])
    slow = [r for r in wide if r.config["size"] > 50]
    half = {**CONDITIONAL, "size": {"low": 1, "high": 50}}
    assert slow
    assert StudySearch(context(tmp_path, knobs=half), wide).num_known == len(wide) - len(slow)


def test_a_point_whose_training_was_given_up_is_not_proposed_again(tmp_path: Path) -> None:
    here = context(tmp_path, knobs={"size": [1, 2, 3]})
    search = StudySearch(here, [])
    for number in range(3):
        (job,) = jobs_of(search.suggest(f"{number}"))
        given_up = replace(record(job), status="stopped", reason="hopeless", accuracy=None, runtime=None)
        StudyFolder(here.folder).write_record(given_up)
        search.on_trial_complete(f"{number}", {})
        search.remember(given_up)
    assert not isinstance(search.suggest("3"), dict)
    known = list(StudyFolder(here.folder).records().values())
    assert len(known) == 3
    assert StudySearch(here, known).num_known == 3


def test_points_are_judged_by_the_mean_over_their_seeds(tmp_path: Path) -> None:
    search = StudySearch(context(tmp_path, seeds=(0, 10)), [])
    first, second = run(search, tmp_path, 1)
    assert first.accuracy is not None
    assert second.accuracy is not None
    assert objectives([first, second]) == (
        pytest.approx((first.accuracy.map + second.accuracy.map) / 2),
        first.config["size"],
    )
    bounds = [parse_constraint(f"map <= {first.accuracy.map}")]
    told = OptunaSpace([], bounds).violations([first, second])
    assert told == {str(bounds[0]): pytest.approx(0.05 / first.accuracy.map)}
    assert objectives([]) is None
    assert objectives([first, replace(second, accuracy=None)]) is None
    assert objectives([replace(first, runtime=runtime(math.nan))]) is None


@pytest.mark.parametrize(
    ("written", "violation"),
    [
        ("runtime_ms <= 30", -1 / 3),
        ("runtime_ms<=10", 1.0),
        ("runtime_p95_ms <= 40", 0.0),
        ("fps >= 100", 0.5),
        ("map >= 0.54", 0.0),
        ("map_low >= 1e0", 0.56),
        ("latency_frames <= 0", 3.0),
        ("gflops <= 5", math.inf),
        ("map_fast >= 0.1", math.inf),
    ],
)
def test_a_violation_is_a_share_of_the_limit(tmp_path: Path, written: str, violation: float) -> None:
    (job,) = jobs_of(StudySearch(context(tmp_path, knobs={"size": [20]}), []).suggest("0"))
    one = replace(record(job), accuracy=Accuracy(protocol="ilsvrc", map=0.54, low=0.44, high=0.64))
    bound = parse_constraint(written)
    assert bound.violation(one) == pytest.approx(violation)
    assert violated(one, [bound]) == ([bound] if violation > 0 else [])
    assert parse_constraint(str(bound)) == bound
    assert bound.violation(replace(one, runtime=None)) == math.inf


def test_a_latency_without_end_breaks_any_bound(tmp_path: Path) -> None:
    (job,) = jobs_of(StudySearch(context(tmp_path, knobs={"size": [20]}), []).suggest("0"))
    whole = replace(record(job), runtime=runtime(1.0, latency_frames=None))
    bound = parse_constraint("latency_frames <= 1e9")
    assert violated(whole, [bound]) == [bound]
    assert OptunaSpace([], [bound]).violations([whole]) == {str(bound): 10.0}, "what Optuna is told stays finite"


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (["runtime <= 3"], "unknown figure 'runtime': did you mean 'runtime_ms'?"),
        (["runtime_ms < 3"], "'runtime_ms < 3' is no constraint; give a figure, <= or >=, and a number"),
        (["runtime_ms <= fast"], "is no constraint"),
        (["runtime_ms <= ."], "is no constraint"),
        ([3], "3 is no constraint"),
        ("runtime_ms <= 3", "search.constraints = 'runtime_ms <= 3'"),
    ],
)
def test_a_bad_constraint_is_one_clear_line(tmp_path: Path, constraints: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        context(tmp_path, constraints=constraints)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_constraints_are_written_as_they_were_read(tmp_path: Path) -> None:
    study = context(tmp_path, constraints=["runtime_ms <= 30", "map >= 0.5"]).study
    assert study.to_mapping()["search"]["constraints"] == ["runtime_ms <= 30", "map >= 0.5"]
    assert parse_study(study.to_mapping(), "again") == study
    assert {"runtime_ms", "map", "latency_frames", "peak_memory_mb"} <= set(FIGURES)
