"""What a plan is made of: the work of studies, rates and how they are chosen, bounds, mistakes at the command line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Run, refused

from vodbench.errors import UserError
from vodbench.plan.costs import FrameRate, Rates, StageRate, load_rates, save_rates
from vodbench.plan.data import video_of
from vodbench.plan.forecast import Risks, forecast
from vodbench.plan.priced import priced
from vodbench.plan.stages import encoder_stages, work_of
from vodbench.registry import method_spec
from vodbench.studies import Study, load_study, parse_study, shipped_studies

QUICK = ("rdn-table3", "rdn-table4", "semi-dff-table1")


def any_rates(study: Study, clip_s: float = 0.1, **settings: Any) -> Rates:
    """Rates of everything that the study has."""
    stages = {(p.stage.method, p.stage.name) for p in work_of(study).trainings.values()}
    return Rates(
        device="test",
        stages=tuple(StageRate(method=m, stage=s, clip_s=clip_s, model_bytes=2e8) for m, s in sorted(stages)),
        frames=tuple(
            FrameRate(method=m, encode_ms=80.0, own_ms=20.0, feature_bytes=1e6)
            for m in sorted({entry.method for entry in study.methods})
        ),
        **settings,
    )


@pytest.fixture
def run(run: Run) -> Run:
    """Of ``vodbench plan``."""
    return partial(run, "plan")


# ---- the work of studies ------------------------------------------------------------------------------------


def test_trials_that_share_their_training_knobs_share_its_stages() -> None:
    work = work_of(load_study("rdn-table4"))  # T, an inference knob
    assert len(work.trials) == 8
    assert [stage.stage.name for stage in work.trainings.values()] == ["basic", "advanced"]
    assert len({trial.encoding for trial in work.trials}) == 1


def test_stages_are_shared_across_methods() -> None:
    """Relation Networks and RDN start differently, RDN's first stage is all of RDN-basic's training."""
    work = work_of(load_study("rdn-table3"))
    trained = [(stage.stage.method, stage.stage.name) for stage in work.trainings.values()]
    assert trained.count(("rdn-basic", "basic")) == 1
    assert len(work.trials) == len({trial.training for trial in work.trials}) == 4


def test_a_search_is_planned_with_distinct_points_drawn_by_its_seed() -> None:
    study = load_study("rdn-table4", {"search.sampler": "tpe", "search.trials": 5, "seeds": [0, 1]})
    work = work_of(study)
    assert [len(unit) for unit in work.units] == [2] * 5
    assert len({trial.job.fingerprint for trial in work.trials}) == 10
    assert [t.job.knobs for t in work_of(study).trials] == [t.job.knobs for t in work.trials]
    assert not work.ahead
    few = load_study("rdn-table4", {"search.sampler": "random", "search.trials": 50})
    assert len(work_of(few).units) == 8  # the space has no more


def test_frames_that_no_trial_shares_have_no_encoding() -> None:
    encodings = {trial.job.method: trial.encoding for trial in work_of(load_study("semi-dff-table1")).trials}
    assert encodings["dff"] is None
    assert encodings["r-fcn"] is None or isinstance(encodings["r-fcn"], str)


def test_the_cache_is_used_where_a_sweep_would_use_it() -> None:
    alone, beside = (load_study("rdn-table4", {"workers.concurrent_trials": n}) for n in (1, 2))
    assert work_of(alone).cache_bytes is None
    assert work_of(beside).cache_bytes == 10**10
    assert (work_of(alone).ahead, work_of(beside).ahead) == (True, False)


def test_encoding_is_told_from_the_rest_by_the_names_of_its_stages() -> None:
    spec = method_spec("rdn")
    names = encoder_stages("rdn", spec.config.from_mapping(spec.presets["tiny"]))
    assert "backbone" in names
    assert not any("relation" in name for name in names)
    thp = method_spec("thp")
    assert encoder_stages("thp", thp.config.from_mapping(thp.presets["tiny"])) == frozenset()


def test_data_is_counted_generated_or_as_published() -> None:
    assert video_of(load_study("rdn-table4")).judged_frames == 176_126
    small = video_of(load_study("rdn-table4", scale="small"))
    assert (small.judged_snippets, small.judged_frames, small.timed_frames) == (30, 30 * 16, 16)
    few = video_of(load_study("rdn-table4", {"accuracy.snippets": 10}, scale="small"))
    assert few.judged_frames == 10 * 16


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in shipped_studies()]
)
def test_every_shipped_study_can_be_planned(name: str) -> None:
    study = load_study(name)
    rates, video = any_rates(study), video_of(study)
    for gpus in (8, 64, 512):
        got = forecast(study, rates, video, Risks(), gpus)
        assert got.wall_s >= got.limits[0].seconds * (1 - 1e-9)
        assert got.useful_hours + got.waiting_hours + got.lost_hours == pytest.approx(got.hours)
        assert got.trials == len(work_of(study).trials)


# ---- rates --------------------------------------------------------------------------------------------------


def test_the_most_similar_measurement_is_taken() -> None:
    spec = method_spec("rdn")
    rates = Rates(
        device="test",
        frames=tuple(
            FrameRate(method="rdn", settings={"T": T, "K": K}, encode_ms=1.0, own_ms=float(T))
            for T, K in ((3, 75), (9, 75), (24, 75), (18, 10))
        ),
    )

    def own_ms(**knobs: Any) -> float | None:
        return rates.frame("rdn", spec.config.from_mapping(knobs)).own_ms

    assert own_ms(T=9) == 9.0
    assert own_ms(T=10) == 9.0  # one setting differs, and 9 is nearest
    assert own_ms(T=23) == 24.0
    assert own_ms(T=18, K=11) == 18.0


def test_processes_divide_a_training_and_a_pass() -> None:
    study = load_study("rdn-table4", {"workers.training": 8, "workers.evaluation": 2})
    work = priced(work_of(study), any_rates(study, clip_s=0.1, part_s=0.005), video_of(study))
    basic = next(t for t in work.trainings.values() if t.name == "rdn-basic basic")
    assert basic.seconds == pytest.approx(120_000 * 4 * 0.1 / 8)
    assert work.trials[0].own_s == pytest.approx(176_126 * 0.025)
    assert (work.train_slots, work.detect_slots) == (8, 2)


def test_counted_operations_become_times_at_a_throughput() -> None:
    rates = Rates(
        device="cpu",
        stages=(StageRate(method="m", stage="s", clip_gflop=3000.0),),
        frames=(FrameRate(method="m", encode_gflop=300.0, own_gflop=50.0),),
    ).at(10.0)
    assert rates.stages[0].clip_s == pytest.approx(0.3)
    assert (rates.frames[0].encode_ms, rates.frames[0].own_ms) == (pytest.approx(30.0), pytest.approx(5.0))
    assert "10 TFLOP/s" in rates.device


def test_a_cache_that_is_too_small_keeps_its_share() -> None:
    study = load_study("rdn-table4", {"workers.concurrent_trials": 8})
    work = priced(work_of(study), any_rates(study), video_of(study))
    assert work.feature_bytes == pytest.approx(176_126 * 1e6)
    assert work.kept == pytest.approx(10e9 / 176_126e6)


def test_rates_are_read_as_they_were_written(tmp_path: Path) -> None:
    rates = any_rates(load_study("rdn-table3"), start_s=3.0, frame_bytes=5e4)
    save_rates(rates, str(tmp_path / "rates.yaml"))
    assert load_rates(str(tmp_path / "rates.yaml")) == rates
    (tmp_path / "rates.json").write_text(json.dumps(rates.model_dump(mode="json")))
    assert load_rates(str(tmp_path / "rates.json")) == rates


# ---- where it stops scaling ---------------------------------------------------------------------------------


def test_one_training_does_not_get_faster_with_more_gpus_and_the_plan_says_so() -> None:
    study = load_study("rdn-table4")
    rates, video = any_rates(study, clip_s=0.5), video_of(study)
    walls = [forecast(study, rates, video, Risks(), gpus) for gpus in (8, 64, 512)]
    assert [got.slots for got in walls] == [8, 32, 32]  # 8 trials of 4 GPUs: no more are asked for
    assert walls[2].limits[0].name == "longest chain"
    assert (walls[1].wall_s, walls[1].hours) == (walls[2].wall_s, walls[2].hours)
    assert walls[1].hours > 2 * walls[0].hours


def test_many_trials_of_one_cheap_training_wait_for_their_measurements() -> None:
    study = load_study("thp-figure3")
    rates = any_rates(study, clip_s=1e-4, measure_start_s=3600.0)
    assert forecast(study, rates, video_of(study), Risks(), 64).limits[0].name == "measuring"


def test_risks_take_time_and_are_repeatable() -> None:
    study = load_study("rdn-table3")
    rates, video = any_rates(study), video_of(study)
    calm, risky = forecast(study, rates, video, Risks(), 8), Risks(straggle=0.2, mtbf_hours=5.0, runs=5)
    got = forecast(study, rates, video, risky, 8)
    assert got.low_s <= got.wall_s <= got.high_s
    assert got.wall_s > calm.wall_s
    assert got.lost_hours > calm.lost_hours == 0
    assert got == forecast(study, rates, video, risky, 8)


# ---- mistakes -----------------------------------------------------------------------------------------------


@pytest.fixture
def rates_file(tmp_path: Path) -> str:
    path = tmp_path / "rates.yaml"
    save_rates(any_rates(load_study("rdn-table4")), str(path))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rdn-tabel4", "--rates", "RATES"], "did you mean 'rdn-table4'"),
        (["rdn-table4"], "--from"),
        (["rdn-table4", "--rates", "RATES", "--probe"], "give one of --from"),
        (["rdn-table4", "--rates", "RATES", "--gpus", "0"], "--gpus '0' is not accepted"),
        (["rdn-table4", "--rates", "RATES", "--gpus", "8,x"], "--gpus '8,x' is not accepted"),
        (["rdn-table4", "--rates", "RATES", "--gpus", "2"], "takes 4 (workers.training)"),
        (["rdn-table4", "--rates", "RATES", "--gpus", "12"], "give 8 or 16"),
        (["thp-gamma", "--rates", "RATES"], "no rate of stage 'propagation' of thp"),
        (["rdn-table4", "--rates", "nowhere.yaml"], "does not exist"),
        (["rdn-table4", "--from", "nowhere"], "holds no study.yaml"),
        (["rdn-table4", "--scale", "huge", "--rates", "RATES"], "unknown scale 'huge'"),
        (["rdn-table4", "--rates", "RATES", "--tflops", "0"], "--tflops 0 is not accepted"),
        (["rdn-table4", "--rates", "RATES", "--tflops", "10"], "were not counted"),
        (["rdn-table4", "--rates", "RATES", "--data", "nowhere"], "does not exist"),
        (["rdn-table4", "--rates", "RATES", "--set", "workers.trainig=2"], "unknown key 'trainig'"),
        (["rdn-table4", "--rates", "RATES", "--against", "nowhere"], "holds no study.yaml"),
        (["rdn-table4", "--rates", "RATES", "--against", "nowhere", "--gpus", "8"], "no --gpus"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, rates_file: str, run: Run) -> None:
    outcome = run(*[rates_file if a == "RATES" else a for a in arguments])
    refused(outcome, said)
    assert len((outcome.out + outcome.err).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [{"method": "m", "stage": "s", "clip_s": -1}]}, "stages.0.clip_s"),
        ({"stage": []}, "stage"),
        ({"device": None}, "device"),
        ({"frames": [{"method": "m", "encode_ms": "fast"}]}, "frames.0.encode_ms"),
    ],
)
def test_a_mistake_in_a_rates_file_names_its_place(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump({"device": "test", **change}))
    with pytest.raises(UserError, match=said):
        load_rates(str(path))


def test_a_method_without_a_rate_names_what_is_there() -> None:
    with pytest.raises(UserError, match=r"no rate of a frame of thp .* have rdn"):
        any_rates(load_study("rdn-table4")).frame("thp", method_spec("thp").config())


def test_the_table_says_what_limits_and_what_it_costs(rates_file: str, run: Run) -> None:
    arguments = ["rdn-table4", "--rates", rates_file, "--gpus", "8,512", "--gpu-hour-price", "2", "--json"]
    status, text, _ = run(*arguments)
    assert status == 0
    first, second = json.loads(text.strip().splitlines()[-1])["plans"]
    assert (first["gpus"], second["gpus"]) == (8, 512)
    assert first["cost"] == pytest.approx(2 * first["hours"]) == pytest.approx(2 * 8 * first["wall_s"] / 3600)
    status, text, _ = run(*arguments[:-1])
    assert status == 0
    assert "limited by" in text


def test_an_empty_generated_split_is_an_error() -> None:
    study = parse_study(
        {"name": "s", "title": "t", "methods": [{"method": "rdn"}], "data": {"generate": {"val_snippets": 0}}}, "s"
    )
    with pytest.raises(UserError, match="no validation snippets"):
        video_of(study)


def test_studies_are_named_by_patterns_too(rates_file: str, run: Run) -> None:
    arguments = ["rdn-table[47]", "rdn-table4", "--rates", rates_file, "--gpus", "8,512", "--gpu-hour-price", "2"]
    status, text, _ = run(*arguments, "--markdown")
    assert status == 0
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    assert [row[0] for row in rows] == ["rdn-table4", "rdn-table7"]
    assert all(len(row) == len(header) for row in rows)
    row = dict(zip(header, rows[0], strict=True))
    assert (row["trainings"], row["settings"], row["GPUs used of 8 / 512"]) == ("2", "8", "8 / 32")
    for hours, cost in zip(row["GPU hours"].split(" / "), row["cost"].split(" / "), strict=True):
        assert float(cost.replace(",", "")) == pytest.approx(2 * float(hours.replace(",", "")), abs=1.1)
    refused(run("rnd-*", "--rates", rates_file), "'rnd-*' matches no study")
