"""What a search learns from earlier studies, and what it says of trials that it cannot learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.spec import MethodSpec
from vodbench.studies import Study, method_spaces, parse_study, space
from vodbench.sweeps import plan as planning
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.plan import trial_job
from vodbench.sweeps.search import StudySearch, jobs_of
from vodbench.sweeps.steps import TrialContext
from vodbench.sweeps.warm_start import earlier_studies, what_they_teach


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports", kind="inference", low=1)
    N_b: int = knob(1, "modules", low=1)
    keys: str = knob("interval", "rule", kind="inference", choices=("interval", "adaptive"))
    gamma: float = knob(0.2, "share", kind="inference", low=0, high=1, needs={"keys": "adaptive"})


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    unused: Any = None

    def spec_of(name: str) -> MethodSpec:
        return MethodSpec(name=name, summary="", paper="", config=Config, presets={"paper": {}}, build=unused,
                          stages=unused, latency_frames=unused)  # fmt: skip

    monkeypatch.setattr(space, "method_spec", spec_of)
    monkeypatch.setattr(planning, "method_spec", spec_of)


def study(knobs: Any, *, settings: Any = None, method: str = "m", **more: Any) -> Study:
    entry = {"method": method, "settings": settings or {}, "knobs": knobs}
    return parse_study({"name": "s", "title": "t", "methods": [entry], **more}, "s")


def context(folder: Path, of: Study, data: str = "data") -> TrialContext:
    return TrialContext(of, DataSource(root="nowhere"), data, str(folder))


def finished(folder: Path, of: Study, *, fail: Sequence[int] = (), device: str = "cpu") -> str:
    """A study folder whose every grid point has been run; mAP and ms are functions of the knobs."""
    here = context(folder, of)
    StudyFolder(here.folder).claim(of, "data")
    for number, point in enumerate(p for entry in method_spaces(of) for p in entry.grid()):
        for seed in of.seeds:
            job = trial_job(point, seed, here)
            StudyFolder(here.folder).write_record(record(job, number, device, failed=number in fail))
    return here.folder


def record(job: Any, number: int, device: str, *, failed: bool) -> TrialRecord:
    ms, value = 10.0 * job.config.T, 0.1 * job.config.T + 0.01 * job.seed
    done = TrialRecord(
        fingerprint=job.fingerprint, study="s", method=job.method, paper="", config=job.config.to_mapping(),
        knobs=job.knobs, seed=job.seed, status="complete", data_fingerprint="data",
        accuracy=Accuracy(protocol="ilsvrc", map=value, low=value, high=value), started=f"2026-01-01T00:00:{number:02}",
        runtime=Runtime(
            median_ms=ms, p95_ms=ms, p99_ms=ms, mean_ms=ms, low_ms=ms, high_ms=ms, fps=1000 / ms, stage_ms={},
            decode_ms=1, gflops=None, peak_memory_mb=1, latency_frames=0, num_frames=9, device=device, threads=1,
            contended=False,
        ),
    )  # fmt: skip
    return replace(done, status="failed", accuracy=None, runtime=None, reason="x") if failed else done


TPE = {"sampler": "tpe", "trials": 5}


def taught(tmp_path: Path, new: Study, *earlier: str, device: str | None = "cpu") -> tuple[dict[Any, Any], list[str]]:
    """(T, ...) of the points learned from -> seeds, and the lines that are said."""
    new = new.model_copy(update={"search": new.search.model_copy(update={"warm_start": earlier})})
    here = context(tmp_path / "new", new)
    points, lines = what_they_teach(earlier_studies(here), here, device)
    entry = method_spaces(new)[0]
    found = {tuple(entry.decode(p.place.drawn).knobs.values()): sorted(r.seed for r in p.records) for p in points}
    return found, lines


def test_points_of_the_space_are_learned_from_with_the_seeds_they_have(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", study({"T": [1, 2, 3]}, seeds=[0, 1]))
    two = finished(tmp_path / "two", study({"T": [3, 4]}, seeds=[7]))
    found, lines = taught(tmp_path, study({"T": {"low": 2, "high": 9}}, search=TPE), one, two)
    assert found == {(2,): [0, 1], (3,): [0, 1, 7], (4,): [7]}
    assert lines == [
        f"warm start: 4 of 6 trials of '{one}' are used",
        "warm start: not used: m T=1 and 1 more: its T lies outside this study's values",
        f"warm start: 2 of 2 trials of '{two}' are used",
    ]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"accuracy": {"protocol": "voc"}}, "protocol is voc there and ilsvrc here"),
        ({"accuracy": {"snippets": 3}}, "accuracy.snippets is 3 there and all here"),
        ({"data": {"val": "test"}}, "data.val is test there and val here"),
        ({"runtime": {"threads": 2}}, "runtime.threads is 2 there and 1 here"),
        ({"method": "other"}, "other is no method of this study"),
        ({"settings": {"N_b": 4}}, "N_b is 4 there and 1 here"),
    ],
)
def test_what_is_not_comparable_says_why(tmp_path: Path, there: Any, said: str) -> None:
    one = finished(tmp_path / "one", study({"T": [1, 2]}, **there))
    found, lines = taught(tmp_path, study({"T": [1, 2]}, search=TPE), one)
    assert found == {}
    assert lines[0] == f"warm start: 0 of 2 trials of '{one}' are used"
    assert lines[1].endswith(f"T=1 and 1 more: {said}")
    assert len(lines) == 2


def test_other_data_and_devices_and_failures_are_told_apart(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", study({"T": [1, 2, 3]}), fail=[1], device="cuda:0 (X)")
    new = study({"T": [1, 2, 3]}, search=TPE)
    found, lines = taught(tmp_path, new, one)
    assert found == {}
    assert lines[1:] == [
        "warm start: not used: m T=1 and 1 more: device is cuda:0 (X) there and cpu here",
        "warm start: not used: m T=2: it has no figures",
    ]
    assert list(taught(tmp_path, new, one, device=None)[0]) == [(1,), (3,)], "what is not known yet is not held against"
    elsewhere = context(tmp_path / "new", new.model_copy(update={"search": searching(one)}), data="other")
    _, lines = what_they_teach(earlier_studies(elsewhere), elsewhere, "cuda:0 (X)")
    assert "m T=1 and 1 more: data fingerprint is data there and other here" in lines[1]


def searching(url: str) -> Any:
    return study({"T": [1]}, search={**TPE, "warm_start": [url]}).search


def test_what_changes_nothing_is_not_compared(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", study({"T": [1, 2]}, settings={"gamma": 0.9}))
    found, _ = taught(tmp_path, study({"T": [1, 2]}, search=TPE), one)
    assert list(found) == [(1,), (2,)]
    adaptive = study({"T": [1, 2]}, settings={"keys": "adaptive"}, search=TPE)
    _, lines = taught(tmp_path, adaptive, one)
    assert "keys is interval there and adaptive here" in lines[1]


def test_records_of_another_version_are_named(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", study({"T": [1]}))
    (old,) = StudyFolder(one).records().values()
    StudyFolder(one).write_record(replace(old, config={**old.config, "gone": 1}))
    _, lines = taught(tmp_path, study({"T": [1]}, search=TPE), one)
    assert lines[1] == "warm start: not used: m T=1: another version made it, with other knobs (gone)"


def test_optuna_has_them_as_history_and_the_study_runs_its_own_trials(tmp_path: Path) -> None:
    """With a start-up of ten random trials behind it, TPE proposes otherwise than cold; own records replace theirs."""
    one = finished(tmp_path / "one", study({"T": list(range(1, 41))}))
    new = study({"T": {"low": 1, "high": 40}}, search={**TPE, "warm_start": [one]})
    here = context(tmp_path / "new", new)
    points, _ = what_they_teach(earlier_studies(here), here, "cpu")
    warm = StudySearch(here, [], points)
    assert warm.num_known == 0, "they count for no trial of this study"
    (job,) = jobs_of(warm.suggest("0"))
    (cold,) = jobs_of(StudySearch(here, []).suggest("0"))
    assert job.config != cold.config
    own = [record(job, 50, "cpu", failed=False)]
    assert StudySearch(here, own, points).num_known == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [("nothing", "holds no study.yaml"), ("new", "is this study's own folder"), ("./new/", "own folder")],
)
def test_a_folder_that_cannot_teach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        taught(tmp_path, study({"T": [1]}, search=TPE), given)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_sampler_that_learns_nothing_takes_no_warm_start(sampler: str) -> None:
    with pytest.raises(UserError, match=f"sampler '{sampler}' learns nothing"):
        study({"T": [1]}, search={"sampler": sampler, "trials": 3, "warm_start": ["runs/a"]})
