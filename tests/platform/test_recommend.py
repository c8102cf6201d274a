"""Advice under a budget: what is admitted, how sure the choice is, and advice on data that no trial was made on."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, refused

from vodbench.checkpoints import Checkpoint, checkpoint_url, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import read_detections
from vodbench.errors import OutOfReachError, UserError
from vodbench.evaluation import compare, evaluate, truth_set
from vodbench.evaluation.bootstrap import bootstrap_map, interval
from vodbench.evaluation.matching import match
from vodbench.evaluation.protocols import protocol
from vodbench.recommend import Advice, Limits, NoCandidate, recommend
from vodbench.recommend.choice import after_choice, best_probability
from vodbench.recommend.elsewhere import Elsewhere, recommend_elsewhere, relabelled
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo
from vodbench.trials import stored_trials
from vodbench.trials.judging import RESAMPLES, Resampled
from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig


def rdn(T: int, **changes: Any) -> dict[str, Any]:
    return {"method": "rdn", "config": {"T": T}, **changes}


def advice_on(folder: Path, budget_ms: float, **limits: Any) -> Advice:
    (found,) = recommend(stored_trials([str(folder)]), Limits(budget_ms=budget_ms, **limits))
    assert isinstance(found, Advice)
    return found


@pytest.fixture(scope="module")
def folder(studies: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T=1 fast and bad, T=2 good, T=3 nearly as good, T=4 the best and too slow; T=9 was measured on a busy device."""
    trials = [
        rdn(1, ms=5.0, lost=0.6),
        rdn(2, ms=10.0, lost=0.2),
        rdn(3, ms=11.8, lost=0.25),
        rdn(4, ms=20.0, lost=0.0),
    ]
    made: Path = studies.make(tmp_path_factory.mktemp("rec") / "s", [*trials, rdn(9, ms=4.0, lost=0.0, contended=True)])
    return made


# ---- what is admitted ---------------------------------------------------------------------------------------


def test_the_most_accurate_inside_the_budget_is_recommended(folder: Path) -> None:
    advice = advice_on(folder, 15.0)
    assert [c.label for c in advice.candidates][-1] == "rdn T=1"
    assert {c.label for c in advice.candidates} == {"rdn T=1", "rdn T=2", "rdn T=3"}
    assert advice.best.map == max(c.configuration.map for c in advice.candidates)
    assert advice_on(folder, 25.0).best.label == "rdn T=4"


def test_runtimes_of_a_busy_device_count_only_when_asked(folder: Path) -> None:
    assert advice_on(folder, 15.0, contended=True).best.label == "rdn T=9"


def test_an_interval_across_the_budget_is_said(folder: Path) -> None:
    """Runtimes have an interval of half a millisecond each way here."""
    advice = advice_on(folder, 12.0)
    said = {c.label: c.may_miss for c in advice.candidates}
    assert said == {"rdn T=1": False, "rdn T=2": False, "rdn T=3": True}
    assert advice.safe is not None
    assert not advice.safe.may_miss
    missed = advice_on(folder, 19.8)
    assert "rdn T=4" not in {c.label for c in missed.candidates}
    assert missed.may_keep is not None
    assert missed.may_keep.startswith("rdn T=4")
    assert advice_on(folder, 19.0).may_keep is None


def test_latency_is_a_limit_too(studies: Any, tmp_path: Path) -> None:
    made = studies.make(tmp_path / "s", [rdn(1, ms=5.0)])
    record = next(made.glob("trials/*/trial.json"))
    for latency, admitted in ((2, True), (3, False), (None, False)):
        values = json.loads(record.read_text())
        values["runtime"]["latency_frames"] = latency
        record.write_text(json.dumps(values))
        (found,) = recommend(stored_trials([str(made)]), Limits(budget_ms=9.0, latency_frames=2))
        assert isinstance(found, Advice) is admitted


def test_an_oracle_is_no_advice(studies: Any, tmp_path: Path) -> None:
    """Settings that look at annotations are a bound, not something to use."""
    spec = method_spec("thp")
    trials = [
        {
            "method": "thp",
            "config": spec.config.from_mapping({"keys": keys}).to_mapping(),
            "knobs": ["keys"],
            "lost": lost,
        }
        for keys, lost in (("oracle", 0.0), ("interval", 0.4))
    ]
    advice = advice_on(studies.make(tmp_path / "s", trials), 15.0)
    assert [c.configuration.config["keys"] for c in advice.candidates] == ["interval"]


def test_no_candidate_is_one_line_with_the_fastest(folder: Path) -> None:
    (found,) = recommend(stored_trials([str(folder)]), Limits(budget_ms=4.5))
    assert isinstance(found, NoCandidate)
    assert "the fastest is rdn T=1 with 5.0 ms [4.5, 5.5]" in found.reason
    assert "1 would, by runtimes taken on a busy device" in found.reason


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, float("nan")])
def test_a_budget_is_above_zero(budget_ms: float) -> None:
    with pytest.raises(UserError, match="--budget-ms"):
        Limits(budget_ms=budget_ms)


def test_devices_are_never_mixed(studies: Any, tmp_path: Path) -> None:
    made = studies.make(tmp_path / "s", [rdn(1, ms=5.0, lost=0.5), rdn(1, ms=1.0, lost=0.5, device="cuda:0", seed=1)])
    found = recommend(stored_trials([str(made)]), Limits(budget_ms=9.0))
    assert {a.conditions.device: len(a.candidates) for a in found if isinstance(a, Advice)} == {"cpu": 1, "cuda:0": 1}


# ---- how sure -----------------------------------------------------------------------------------------------


def test_sureness_is_that_of_the_paired_bootstrap(studies: Any, folder: Path) -> None:
    advice = advice_on(folder, 15.0)
    seeds = {f"rdn T={T}": studies.detections("rdn", 0, lost) for T, lost in ((1, 0.6), (2, 0.2), (3, 0.25))}
    rules = protocol("ilsvrc")
    samples = {n: bootstrap_map(match(studies.truth, found, rules), RESAMPLES, 0) for n, found in seeds.items()}
    stacked = np.stack([samples[c.label] for c in advice.candidates])
    wins = np.bincount(stacked.argmax(axis=0), minlength=3) / RESAMPLES
    tied = (stacked == stacked.max(axis=0)).sum(axis=0) > 1
    np.testing.assert_allclose([c.probability for c in advice.candidates], wins, atol=tied.mean() + 1e-12)
    assert sum(c.probability or 0 for c in advice.candidates) == pytest.approx(1)
    best, second = advice.candidates[:2]
    assert second.behind == compare(studies.truth, seeds[best.label], seeds[second.label], bootstrap=RESAMPLES)
    assert (best.low, best.high) == interval(samples[best.label])


def test_equals_share_a_resample() -> None:
    samples = np.array([[0.5, 0.5, 0.1], [0.5, 0.4, 0.2], [0.1, 0.1, 0.3]])
    np.testing.assert_allclose(best_probability(samples), [0.5, 1 / 6, 1 / 3])
    np.testing.assert_allclose(best_probability(np.hstack([samples, np.full((3, 1), np.nan)])), [0.5, 1 / 6, 1 / 3])


def test_seeds_are_averaged(studies: Any, tmp_path: Path) -> None:
    """One lucky training does not make a setting the best."""
    trials = [rdn(1, lost=0.0), rdn(1, lost=0.6, seed=1), rdn(2, lost=0.2), rdn(2, lost=0.2, seed=1)]
    advice = advice_on(studies.make(tmp_path / "s", trials), 15.0)
    assert advice.best.label == "rdn T=2"
    for candidate in advice.candidates:
        maps = [t.accuracy.map for t in candidate.configuration.trials]
        assert candidate.map == pytest.approx(np.mean(maps))
        assert len(maps) == 2


def test_one_candidate_was_not_chosen_from_any() -> None:
    samples = np.random.default_rng(0).normal(0.5, 0.1, (1, 400))
    expected = after_choice(Resampled(map=np.array([0.52]), samples=samples))
    assert expected.map == pytest.approx(0.52)
    assert (expected.low, expected.high) == pytest.approx(interval(samples[0]))


def test_the_winners_curse_is_allowed_for() -> None:
    """Many equally good candidates, measured with noise: the best of them looks better than it is. Of 400 such studies
    the corrected interval holds the truth nearly as often as it says; the winner's own does not."""
    rng, truth, noise, candidates = np.random.default_rng(1), 0.5, 0.05, 12
    held = {"own": 0, "after": 0}
    heights, corrected = [], []
    for _ in range(400):
        seen = truth + noise * rng.standard_normal(candidates)
        samples = seen[:, None] + noise * rng.standard_normal((candidates, 500))
        after = after_choice(Resampled(map=seen, samples=samples))
        low, high = interval(samples[int(seen.argmax())])
        held["own"] += low <= truth <= high
        held["after"] += after.low <= truth <= after.high
        heights.append(seen.max())
        corrected.append(after.map)
    assert held["own"] < 0.8 * 400
    assert held["after"] > 0.88 * 400
    assert abs(np.mean(corrected) - truth) < 0.5 * (np.mean(heights) - truth)


def test_a_clear_winner_owes_nothing_to_luck() -> None:
    rng = np.random.default_rng(2)
    resampled = Resampled(
        map=np.array([0.9, 0.5]), samples=np.array([[0.9], [0.5]]) + 0.02 * rng.standard_normal((2, 500))
    )
    after = after_choice(resampled)
    assert after.map == pytest.approx(0.9, abs=1e-9)
    assert (after.low, after.high) == pytest.approx(resampled.interval(0))
    assert best_probability(resampled.samples).tolist() == [1.0, 0.0]


def test_only_the_most_accurate_are_judged(folder: Path) -> None:
    (advice,) = recommend(stored_trials([str(folder)]), Limits(budget_ms=15.0), most=2)
    assert isinstance(advice, Advice)
    assert len(advice.candidates) == 2
    assert advice.not_judged == 1


def test_without_the_data_the_records_decide_and_say_so(studies: Any, tmp_path: Path) -> None:
    gone = {"data": {"root": str(tmp_path / "gone")}}
    made = studies.make(tmp_path / "s", [rdn(1, lost=0.6), rdn(2, lost=0.1)], **gone)
    advice = advice_on(made, 15.0)
    assert advice.best.label == "rdn T=2"
    assert advice.best.low == advice.best.configuration.low
    assert advice.best.probability is None
    assert advice.after_choice is None
    assert "does not exist" in (advice.unsure or "")


def test_data_out_of_reach_are_as_if_they_were_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(source: DataSource) -> None:
        raise OutOfReachError(f"'{source.root}' cannot be reached")

    monkeypatch.setattr(DataSource, "open", away)
    advice = advice_on(folder, 15.0)
    assert advice.after_choice is None
    assert "cannot be reached" in (advice.unsure or "")


# ---- on data of one's own -----------------------------------------------------------------------------------


def test_labels_are_those_of_the_data(studies: Any) -> None:
    """By identifier, or else by name; what the data does not know goes, frames stay."""
    found = studies.detections("rdn", 0, 0.3)
    known = (ClassInfo("n1", "Cat"), ClassInfo("n2", "dog"))
    same = relabelled(found, known, (ClassInfo("n2", "hound"), ClassInfo("x", "cat")))
    np.testing.assert_array_equal(same.labels, 3 - found.labels)
    np.testing.assert_array_equal(same.boxes, found.boxes)
    dogs = relabelled(found, known, (ClassInfo("n2", "dog"),))
    assert len(dogs) == len(found)
    for row in range(len(found)):
        before, after = found.detections(row), dogs.detections(row)
        np.testing.assert_array_equal(after.boxes, before.boxes[before.labels == 2])
        assert (after.labels == 1).all()


@pytest.fixture(scope="module")
def trained(studies: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two settings of one checkpoint (which was never trained) on the data of ``studies``."""
    spec = method_spec("faster-rcnn")
    config = spec.config.from_mapping(dict(spec.presets["tiny"]))
    settings = [config.replace(score_threshold=threshold).to_mapping() for threshold in (0.01, 0.5)]
    trials = [
        {"method": "faster-rcnn", "config": s, "knobs": ["score_threshold"], "ms": 5.0, "lost": lost}
        for s, lost in zip(settings, (0.5, 0.1), strict=True)
    ]
    out: Path = studies.make(tmp_path_factory.mktemp("trained") / "s", trials)
    method: Any = spec.build(config, 2)
    save_checkpoint(
        checkpoint_url(str(out), "c"),
        Checkpoint(
            method=spec.name, config=config, classes=studies.dataset.classes, weights=method.state_dict(),
            fingerprint="c", stage="detector", data_fingerprint=studies.dataset.fingerprint, seed=0, revision="r",
        ),
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def own_video(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("own") / "video")
    generate(root, GeneratorConfig(snippets=1, val_snippets=2, frames=3, size=64, classes=2, tracks=(1, 1), seed=8))
    return root


def test_checkpoints_are_judged_on_data_of_ones_own(trained: Path, own_video: str, tmp_path: Path) -> None:
    source = DataSource(root=own_video)
    elsewhere = Elsewhere(source=source, split="val", store=str(tmp_path / "kept"), device="cpu")
    told: list[tuple[str, int, int]] = []
    (advice,) = recommend_elsewhere(
        stored_trials([str(trained)]),
        Limits(budget_ms=9.0),
        elsewhere,
        on_detecting=lambda *progress: told.append(progress),
    )
    assert isinstance(advice, Advice)
    assert told[-1][1:] == (6, 6)
    dataset = source.open()
    truth = truth_set(dataset, "val")
    for candidate in advice.candidates:
        (trial,) = candidate.configuration.trials
        (file,) = (tmp_path / "kept").glob(f"*/{trial.record.fingerprint}.parquet")
        found = read_detections(str(file))
        assert found.provenance["data"] == dataset.fingerprint
        assert candidate.map == pytest.approx(evaluate(truth, found, bootstrap=0).map)
        assert candidate.map != pytest.approx(candidate.configuration.map), "not the recorded one"
    assert own_video in advice.judged_on


def test_classes_that_no_trial_knows_are_refused_or_said(trained: Path, own_video: str, tmp_path: Path) -> None:
    source = DataSource(root=own_video)
    dataset = source.open()
    elsewhere = Elsewhere(source=source, split="val", store=str(tmp_path), device="cpu")
    checkpoint = checkpoint_url(str(trained), "c")
    from vodbench.checkpoints import load_checkpoint

    saved = load_checkpoint(checkpoint)
    first = saved.classes[0]
    try:
        for classes, said in (
            ((ClassInfo("n9", "zebra"), ClassInfo("n8", "kite")), "know the classes zebra, kite"),
            ((first, ClassInfo("n8", "kite")), ""),
        ):
            save_checkpoint(checkpoint, dataclasses.replace(saved, classes=classes))
            (advice,) = recommend_elsewhere(stored_trials([str(trained)]), Limits(budget_ms=9.0), elsewhere)
            if said:
                assert isinstance(advice, NoCandidate)
                assert said in advice.reason
            else:
                assert isinstance(advice, Advice)
                assert advice.notes == (f"s knows no {dataset.classes[1].name}: these classes count with AP 0",)
    finally:
        save_checkpoint(checkpoint, saved)


def test_trials_that_cannot_be_used_do_not_stop_the_others(
    studies: Any, trained: Path, own_video: str, tmp_path: Path
) -> None:
    without = studies.make(tmp_path / "gone", [{"method": "faster-rcnn", "ms": 2.0}])
    record = next(without.glob("trials/*/trial.json"))
    record.write_text(record.read_text().replace(studies.dataset.fingerprint, "other data"))
    elsewhere = Elsewhere(source=DataSource(root=own_video), split="val", store=str(tmp_path / "kept"), device="cpu")
    (advice,) = recommend_elsewhere(stored_trials([str(without), str(trained)]), Limits(budget_ms=9.0), elsewhere)
    assert isinstance(advice, Advice)
    assert {c.configuration.studies for c in advice.candidates} == {("s",)}
    assert any("gone" in note and "does not exist" in note for note in advice.notes)
    assert advice.not_judged == 1


# ---- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Of ``vodbench recommend``."""
    monkeypatch.chdir(tmp_path)
    return partial(run, "recommend")


def test_the_command_prints_and_gives_json(run: Run, folder: Path) -> None:
    status, printed, _ = run(str(folder), "--budget-ms", "12")
    assert status == 0
    assert "recommended under 12 ms a frame: rdn T=" in printed
    status, printed, _ = run(str(folder), "--budget-ms", "12", "--json")
    (advice,) = json.loads(printed)["advice"]
    expected = advice_on(folder, 12.0)
    assert status == 0
    assert advice["recommended"] == expected.best.label
    assert advice["runner_up"] == expected.candidates[1].label
    assert [c["probability"] for c in advice["candidates"]] == [c.probability for c in expected.candidates]


def test_the_command_uses_trials_on_the_data_given(run: Run, studies: Any, folder: Path) -> None:
    status, printed, _ = run(str(folder), "--budget-ms", "12", "--data", studies.video, "--json")
    assert status == 0
    assert json.loads(printed)["advice"][0]["judged_on"] is None


def test_the_command_judges_on_other_data(run: Run, trained: Path, own_video: str, tmp_path: Path) -> None:
    status, printed, _ = run(str(trained), "--budget-ms", "12", "--data", own_video)
    assert status == 0
    assert f"judged on   {own_video}" in printed
    assert list((tmp_path / "runs" / "recommend").glob("*/*.parquet"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget-ms", "1"], "the fastest is rdn T=1"),
        (["--budget-ms", "0"], "--budget-ms 0 is not accepted"),
        ([], "Missing option '--budget-ms'"),
        (["--budget-ms", "9", "--data", "nowhere"], "does not exist"),
        (["--budget-ms", "9", "--candidates", "0"], "--candidates '0' is not accepted"),
    ],
)
def test_mistakes_are_one_line(run: Run, folder: Path, tmp_path: Path, words: list[str], said: str) -> None:
    refused(run(str(folder), *words), said)
    assert not list(tmp_path.iterdir())


def test_without_runs_there_is_nothing_to_recommend(run: Run) -> None:
    refused(run("--budget-ms", "9"), "'runs/*' matches no study folder")
