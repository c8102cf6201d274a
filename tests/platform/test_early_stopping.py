"""Hopeless trainings are given up: who climbs, who is compared with whom, and what a continued study decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.images import decode
from vodbench.knobs import MethodConfig, knob
from vodbench.records import Accuracy, Runtime
from vodbench.spec import Clip, ClipFrame, ClipSpec
from vodbench.studies import Point, grid_points, parse_study
from vodbench.sweeps import plan as planning
from vodbench.sweeps import rung_steps
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.halving import climb
from vodbench.sweeps.plan import trial_job
from vodbench.sweeps.retrying import forget_failed, spare_stopped
from vodbench.sweeps.rung_steps import iterations_saved
from vodbench.sweeps.rungs import Rung, Rungs, spare
from vodbench.sweeps.steps import OnProgress, TrialContext, TrialJob
from vodbench.sweeps.trial import run_trial


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    T: int = knob(3, "supports", kind="inference", low=1)
    quality: int = knob(1, "how good it will be, in percent", low=0)
    late: int = knob(0, "percent that it gains after half of its training")


class Spec:
    paper = "A paper"


@pytest.fixture
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "method_spec", lambda name: Spec)


planted = pytest.mark.usefixtures("_planted")


class Killed(BaseException):
    """The process dies."""


class Steps:
    """mAP rises with the share that is trained; every call is remembered; dies in call number ``dies_at``."""

    def __init__(self, dies_at: int = -1, shared: Sequence[int] = ()) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.dies_at, self.shared = dies_at, shared

    def _call(self, *what: Any) -> None:
        if len(self.calls) == self.dies_at:
            raise Killed
        self.calls.append(what)

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        return f"{job.method}-{job.config.training_settings()}-{job.seed}"

    def may_stop(self, job: TrialJob, context: TrialContext) -> bool:
        return quality(job) not in self.shared

    def train_to(self, jobs: Sequence[TrialJob], share: float, context: TrialContext, on_progress: OnProgress) -> None:
        self._call("train_to", share, [quality(job) for job in jobs])

    def score(self, job: TrialJob, share: float, context: TrialContext, on_progress: OnProgress) -> float:
        self._call("score", share, quality(job))
        late = job.config.late / 100 if share >= 0.5 else 0.0  # type: ignore[attr-defined]
        return float("nan") if quality(job) == 13 else share * quality(job) / 100 + late

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        self._call("train", quality(job))
        return self.training_fingerprint(job, context)

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None: ...

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None: ...

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        return Accuracy(protocol="ilsvrc", map=0.5, low=0.4, high=0.6)

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        self._call("measure", quality(job))
        return Runtime(
            median_ms=1, p95_ms=1, p99_ms=1, mean_ms=1, low_ms=1, high_ms=1, fps=1, stage_ms={}, decode_ms=1,
            gflops=None, peak_memory_mb=1, latency_frames=1, num_frames=1, device="cpu", threads=1, contended=False,
        )  # fmt: skip


def quality(job: TrialJob) -> int:
    return job.config.quality  # type: ignore[attr-defined, no-any-return]


def quiet(doing: str, done: int, total: int) -> None:
    pass


def context(folder: Path, **settings: Any) -> TrialContext:
    early = {"rungs": [0.25, 0.5], "reduction": 3, "snippets": 4, **settings}
    values = {"name": "s", "title": "t", "methods": [{"method": "m"}], "search": {"early_stopping": early}}
    return TrialContext(parse_study(values, "s"), DataSource(root="nowhere"), "data", str(folder))


def job(here: TrialContext, quality: int, *, T: int = 3, seed: int = 0, method: str = "m", late: int = 0) -> TrialJob:
    return trial_job(Point(method, Config(quality=quality, T=T, late=late), {"T": T}), seed, here)


def climbed(here: TrialContext, jobs: Sequence[TrialJob], steps: Steps) -> set[int]:
    """The qualities that were given up."""
    stopped = climb(jobs, here, steps, quiet)
    return {quality(j) for j in jobs if steps.training_fingerprint(j, here) in stopped}


@planted
def test_a_grid_climbs_together_and_a_third_goes_on_at_each_rung(tmp_path: Path) -> None:
    here, steps = context(tmp_path), Steps()
    jobs = [job(here, q) for q in (5, 90, 20, 80, 10, 70, 60, 30)]
    assert climbed(here, jobs, steps) == {5, 20, 80, 10, 70, 60, 30}
    trained = [call for call in steps.calls if call[0] == "train_to"]
    # Of eight a third, rounded up, are three; of these one.
    assert trained == [("train_to", 0.25, [5, 90, 20, 80, 10, 70, 60, 30]), ("train_to", 0.5, [90, 80, 70])]
    assert not [call for call in steps.calls if call[0] in ("train", "measure")], "runtime has no part in it"
    again = Steps()
    assert climbed(here, jobs, again) == {5, 20, 80, 10, 70, 60, 30}
    assert again.calls == [], "decisions are kept"


@planted
def test_reasons_say_where_and_why(tmp_path: Path) -> None:
    here = context(tmp_path)
    reasons = climb([job(here, q) for q in (90, 80, 10)], here, Steps(), quiet)
    assert sorted(reasons.values()) == [
        "hopeless after 25% of its training: mAP 0.025 on 4 snippets, and 2 of 3 trainings of m were better",
        "hopeless after 25% of its training: mAP 0.200 on 4 snippets, and 1 of 3 trainings of m were better",
    ]


@planted
@pytest.mark.parametrize("dies_at", range(12))
def test_a_study_killed_anywhere_decides_as_if_it_had_not_been(tmp_path: Path, dies_at: int) -> None:
    """Two are given up early that would have been good late: only the same decisions give the same survivors."""
    qualities = {40: 0, 30: 0, 20: 60, 60: 0, 10: 90, 50: 0}
    whole, broken = context(tmp_path / "whole"), context(tmp_path / "broken")
    undisturbed = Steps()
    expected = climbed(whole, [job(whole, q, late=late) for q, late in qualities.items()], undisturbed)
    jobs = [job(broken, q, late=late) for q, late in qualities.items()]
    first = Steps(dies_at)
    if dies_at < len(undisturbed.calls):
        with pytest.raises(Killed):
            climb(jobs, broken, first, quiet)
    second = Steps()
    assert climbed(broken, jobs, second) == expected
    scores = [call for call in first.calls + second.calls if call[0] == "score"]
    assert len(scores) == len(set(scores)) == len([c for c in undisturbed.calls if c[0] == "score"])


@planted
def test_trainings_that_come_one_by_one_are_compared_with_those_before(tmp_path: Path) -> None:
    here = context(tmp_path)
    given_up = [climbed(here, [job(here, q)], Steps()) for q in (10, 20, 30, 25, 90)]
    # Two cannot tell a third; 30 is the best of three; 25 the second of four, of which two go on; 90 is the best.
    assert given_up == [set(), set(), set(), set(), set()]
    assert climbed(here, [job(here, 26)], Steps()) == {26}, "the third of six, of which two go on"
    assert climbed(here, [job(here, 10)], Steps()) == set(), "what went on is not asked again"


@planted
def test_only_trainings_of_the_same_method_and_seed_compete(tmp_path: Path) -> None:
    here = context(tmp_path)
    jobs = [job(here, q, seed=seed, method=m) for q, seed, m in ((1, 0, "m"), (90, 1, "m"), (80, 1, "m"), (70, 0, "n"))]
    assert climbed(here, jobs, Steps()) == set()


@planted
def test_equals_and_unknown_accuracies_go_on(tmp_path: Path) -> None:
    here = context(tmp_path)
    blind = [job(here, 0, late=late) for late in (1, 2, 3, 4)]
    assert climb(blind, here, Steps(), quiet).keys() == {Steps().training_fingerprint(j, here) for j in blind[:2]}, (
        "at the first rung all are equal, at the second the better half goes on"
    )
    other = context(tmp_path / "other")
    assert climbed(other, [job(other, q) for q in (13, 90, 80)], Steps()) == {80}


@planted
def test_what_others_begin_with_is_neither_stopped_nor_compared(tmp_path: Path) -> None:
    here, steps = context(tmp_path), Steps(shared=(5, 99))
    assert climbed(here, [job(here, q) for q in (5, 99, 50, 40)], steps) == set()
    assert steps.calls[0] == ("train_to", 0.25, [50, 40])


@planted
def test_trials_that_share_a_training_share_its_fate(tmp_path: Path) -> None:
    here, steps = context(tmp_path), Steps()
    jobs = [job(here, q, T=T) for q in (90, 80, 10) for T in (1, 9)]
    climb(jobs, here, steps, quiet)
    assert len([call for call in steps.calls if call[:2] == ("score", 0.25)]) == 3, "a training is judged once"
    records = [run_trial(j, here, steps, quiet) for j in jobs]
    assert [r.status for r in records] == ["complete"] * 2 + ["stopped"] * 4
    assert records[4].reason == records[5].reason
    assert "hopeless after 25%" in str(records[4].reason)
    assert records[4].accuracy is None
    assert not (tmp_path / "trials" / records[4].fingerprint / "error.txt").exists()


@planted
def test_a_stopped_trial_runs_again_only_when_asked_and_then_to_its_end(tmp_path: Path) -> None:
    here, jobs = context(tmp_path), []
    jobs = [job(here, q) for q in (90, 80, 10)]
    climb(jobs, here, Steps(), quiet)
    folder, steps = StudyFolder(str(tmp_path)), Steps()
    stopped = run_trial(jobs[2], here, steps, quiet)
    forget_failed(folder)
    assert run_trial(jobs[2], here, steps, quiet) == stopped
    assert steps.calls == []
    spare_stopped(folder)
    assert run_trial(jobs[2], here, steps, quiet).status == "complete"
    assert steps.calls == [("train", 10), ("measure", 10)]
    assert climbed(here, jobs, Steps()) == {80}, "and it is not given up later"


@planted
def test_without_early_stopping_nothing_climbs(tmp_path: Path) -> None:
    values = {"name": "s", "title": "t", "methods": [{"method": "m"}]}
    here = TrialContext(parse_study(values, "s"), DataSource(root="nowhere"), "data", str(tmp_path))
    steps = Steps()
    assert climb([job(here, q) for q in (1, 2, 3, 4)], here, steps, quiet) == {}
    assert run_trial(job(here, 1), here, steps, quiet).status == "complete"
    assert steps.calls == [("train", 1), ("measure", 1)]


@planted
def test_a_damaged_rung_is_named(tmp_path: Path) -> None:
    here = context(tmp_path)
    climb([job(here, 1)], here, Steps(), quiet)
    (file,) = tmp_path.glob("rungs/*/0.25-4.json")
    file.write_text("{")
    with pytest.raises(UserError, match=r"0\.25-4\.json' is damaged"):
        climb([job(here, 1)], here, Steps(), quiet)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rungs": [0.5, 0.25]}, "do not rise; give shares such as [0.25, 0.5]"),
        ({"rungs": [0.5, 1.0]}, "early_stopping.rungs.1 = 1.0"),
        ({"rungs": []}, "early_stopping.rungs = []"),
        ({"reduction": 1}, "early_stopping.reduction = 1"),
        ({"runs": [1]}, "did you mean 'rungs'"),
    ],
)
def test_bad_settings_are_one_clear_line(tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        context(tmp_path, **settings)
    assert said in str(error.value)


# ---- the platform's own steps


def tiny_study(**changes: Any) -> Any:
    values = {
        "name": "s",
        "title": "t",
        "preset": "tiny",
        "settings": {"T": 4, "proposals": 7},
        "methods": [
            {"method": "faster-rcnn", "knobs": {"learning_rate": [0.06, 0.03]}},
            {"method": "rdn-basic", "knobs": {"N_b": [1, 2], "K": [3, 5]}},
        ],
        "search": {"early_stopping": {}},
        **changes,
    }
    return parse_study(values, "s")


def test_a_detector_that_others_start_from_may_not_stop(tmp_path: Path) -> None:
    from vodbench.sweeps.platform_steps import PlatformSteps

    here = TrialContext(tiny_study(), DataSource(root="nowhere"), "data", str(tmp_path))
    steps = PlatformSteps()
    jobs = [trial_job(point, 0, here) for point in grid_points(here.study)]
    stoppable = {(j.method, j.config.to_mapping()["learning_rate"]): steps.may_stop(j, here) for j in jobs}
    # The tiny preset's relation methods start from the detector with its own rate, 0.06.
    assert stoppable == {("faster-rcnn", 0.06): False, ("faster-rcnn", 0.03): True, ("rdn-basic", 0.06): True}
    last = steps.training_fingerprint(jobs[1], here)
    finished = tmp_path / "checkpoints" / last / "model.pt"
    finished.parent.mkdir(parents=True)
    finished.touch()
    assert not steps.may_stop(jobs[1], here), "there is nothing left to give up"


def test_a_training_is_judged_with_the_studys_inference_settings() -> None:
    points = grid_points(tiny_study())
    here = TrialContext(tiny_study(), DataSource(root="nowhere"), "data", "unused")
    judged = [rung_steps.judged_as(trial_job(p, 0, here), here.study) for p in points if p.method == "rdn-basic"]
    assert [c.to_mapping()["N_b"] for c in judged] == [1, 1, 2, 2]
    assert {(c.to_mapping()["T"], c.to_mapping()["K"], c.to_mapping()["proposals"]) for c in judged} == {(4, 12, 7)}
    assert judged[0] == judged[1]


def test_a_rung_is_a_share_of_the_last_stage() -> None:
    here = TrialContext(tiny_study(), DataSource(root="nowhere"), "data", "unused")
    points = {p.method: trial_job(p, 0, here) for p in grid_points(here.study)}
    assert rung_steps.pause_after(points["rdn-basic"], 0.25) == 75  # of 300; the detector has 1400
    assert rung_steps.pause_after(points["faster-rcnn"], 0.5) == 700
    assert rung_steps.pause_after(points["rdn-basic"], 0.0001) == 1


@pytest.fixture
def _trains_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray Train would do, in this process."""
    from vodbench.training import driver
    from vodbench.training.peers import Peers
    from vodbench.training.worker import train_stages

    monkeypatch.setattr(driver, "start_ray", lambda: None)
    monkeypatch.setattr(driver, "scaling_config", lambda *_: None)
    monkeypatch.setattr(driver, "_fit", lambda job, *_: train_stages(job, Peers()))


def clips_in_turn(
    dataset: Any, clips: ClipSpec, *, split: str, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
) -> Iterator[Clip]:
    """Frame after frame, without Ray Data."""
    for number in range(start, stop):
        snippet = dataset.snippets(split)[number % 3]
        (frame,) = dataset.read(split, snippet.id, [number % snippet.num_frames])
        image = decode(frame.encoded, snippet.id)
        yield Clip(number, snippet.id, ClipFrame(frame.index, image, frame.truth), (), bool(number % 2))


@pytest.mark.usefixtures("_trains_here")
def test_real_trainings_pause_are_judged_and_end_as_without_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vodbench.checkpoints import checkpoint_url, load_checkpoint
    from vodbench.sweeps.platform_steps import PlatformSteps
    from vodbench_datasets.generated import GeneratorConfig, generate

    generate(str(tmp_path / "video"), GeneratorConfig(snippets=3, val_snippets=3, frames=3, size=64))
    rates = [0.03, 0.01, 0.00001]
    study = tiny_study(
        settings={"iterations": 6, "short_side": 64, "batch_size": 2, "warmup_iterations": 1},
        methods=[{"method": "faster-rcnn", "knobs": {"learning_rate": rates}}],
        search={"early_stopping": {"rungs": [0.5], "reduction": 2, "snippets": 2}},
    )
    source, steps = DataSource(root=str(tmp_path / "video")), PlatformSteps()
    data = source.open().fingerprint
    monkeypatch.setattr(type(source.open()), "training_clips", clips_in_turn)
    here = TrialContext(study, source, data, str(tmp_path / "out"))
    jobs = [trial_job(point, 0, here) for point in grid_points(study)]
    stopped = climb(jobs, here, steps, quiet)
    rungs = Rungs(here.folder, study.search.early_stopping)
    reached = {steps.training_fingerprint(j, here): rungs.at(steps.training_fingerprint(j, here), 0.5) for j in jobs}
    assert all(rung is not None and 0 <= rung.map <= 1 for rung in reached.values())
    kept = sorted((rung.map for rung in reached.values() if rung), reverse=True)[:2]
    assert {t for t, rung in reached.items() if rung and rung.map < kept[-1]} == stopped.keys()
    going_on = next(j for j in jobs if steps.training_fingerprint(j, here) not in stopped)
    name = steps.train(going_on, here, quiet)
    whole = TrialContext(study, source, data, str(tmp_path / "whole"))
    assert steps.train(going_on, whole, quiet) == name
    paused, undisturbed = (load_checkpoint(checkpoint_url(c.folder, name)).weights for c in (here, whole))
    assert all((paused[key] == undisturbed[key]).all() for key in undisturbed)


def test_what_was_saved_is_counted_once_a_training(tmp_path: Path) -> None:
    here = TrialContext(tiny_study(), DataSource(root="nowhere"), "data", str(tmp_path))
    jobs = [trial_job(point, 0, here) for point in grid_points(here.study)]  # 2 detectors of 1400, 2 x 2 of 300
    given_up = {("faster-rcnn", 0.03): 0.25, ("rdn-basic", 1): 0.5}
    records = []
    settings = here.study.search.early_stopping
    assert settings is not None
    for each in jobs:
        values = each.config.to_mapping()
        name = f"{each.method}-{values['learning_rate']}-{values.get('N_b')}"
        share = given_up.get((each.method, values.get("N_b", values["learning_rate"])))
        record = run_trial(each, here, Steps(), quiet)
        records.append(replace(record, checkpoint=name, status="stopped" if share else "complete"))
        if share:
            for reached, go_on in ((share / 2, True), (share, False)):
                rung = Rung(training=name, method=each.method, seed=0, share=reached, map=0.1, go_on=go_on)
                Rungs(here.folder, settings).keep(rung)
    assert iterations_saved(records, here.folder) == (1050 + 150, 2 * 1400 + 2 * 300)
    spare(here.folder, "faster-rcnn-0.03-None")
    assert iterations_saved(records, here.folder)[0] == 150


def test_rungs_of_other_snippets_are_not_mixed(tmp_path: Path) -> None:
    from vodbench.studies.searching import EarlyStopping

    few, many = (Rungs(str(tmp_path), EarlyStopping(snippets=n)) for n in (2, 20))
    few.keep(Rung(training="a", method="m", seed=0, share=0.25, map=0.1))
    assert many.at("a", 0.25) is None
    assert many.reached(0.25, "m", 0) == []
    assert few.at("a", 0.25) == few.reached(0.25, "m", 0)[0]
    assert math.isclose(few.reached(0.25, "m", 0)[0].map, 0.1)
