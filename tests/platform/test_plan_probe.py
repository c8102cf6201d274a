"""Rates that are measured on the spot: every stage and method of a study gets one, and what is counted is right."""

from __future__ import annotations

import pytest
import torch

from vodbench.plan import measured
from vodbench.plan.costs import Rates
from vodbench.plan.data import video_of
from vodbench.plan.made_up import clips_of, picture_size
from vodbench.plan.measured import counted_frame
from vodbench.plan.priced import priced
from vodbench.plan.probe import WITHIN, probed
from vodbench.plan.stages import work_of
from vodbench.registry import method_spec
from vodbench.spec import ClipSpec
from vodbench.studies import Study, load_study
from vodbench.timing.counting import count
from vodbench.timing.passes import StartStream


def counted(study: Study) -> Rates:
    return probed([study], lambda doing: None, timed=False)


def test_made_up_clips_are_what_a_stage_asks_for() -> None:
    groups = clips_of(ClipSpec(num_supports=2, offset_high=9, categories=2, videos=3), (48, 64), 30)
    first = [next(groups) for _ in range(12)]
    assert [clip.category for clip in first] == [1, 1, 1, 2, 2, 2] * 2
    assert all(
        (frame.truth.labels == clip.category).all() for clip in first for frame in (clip.reference, *clip.supports)
    )
    flows = next(clips_of(ClipSpec(num_supports=1, offset_high=9, flow=True), (48, 64), 30))
    assert flows.supports[0].flow is not None
    assert flows.supports[0].flow.shape == (48, 64, 2)
    unlabelled = next(clips_of(ClipSpec(num_supports=1, offset_high=9, frames="unlabelled"), (48, 64), 30))
    assert not len(unlabelled.reference.truth.labels)


def test_operations_are_those_that_a_runtime_measurement_counts() -> None:
    """The encoding and the rest, counted apart, are together what streaming a frame takes."""
    study = load_study("rdn-table4", {"methods.rdn.knobs.T": [2]}, scale="small")
    config = work_of(study).trials[0].job.config
    rate = counted(study).frame("rdn", config)
    method = method_spec("rdn").build(config, 30)
    assert isinstance(method, torch.nn.Module)
    start: StartStream = lambda clock: method.eval().stream(config)  # noqa: E731
    side = picture_size(study)
    from vodbench.plan.made_up import picture

    frames = 2 * 2 * config.T + 8  # type: ignore[attr-defined]
    whole = count(method, start, [picture(side, 0)] * frames, config.T)  # type: ignore[attr-defined, arg-type]
    assert whole.steady
    assert rate.encode_gflop is not None
    assert rate.own_gflop is not None
    assert rate.encode_gflop + rate.own_gflop == pytest.approx(whole.gflops, rel=0.02)
    assert rate.feature_bytes > 0  # type: ignore[operator]


def test_settings_that_take_about_the_same_are_measured_once() -> None:
    """What is left tells every setting's operations, by the settings that differ."""
    knobs = {"methods.fgfa.knobs.T": [1], "methods.dff.knobs.key_frame_interval": [1, 7, 8]}
    study = load_study("thp-propagation", knobs, scale="small")
    rates = counted(study)
    assert {(rate.method, rate.stage) for rate in rates.stages} == {
        (planned.stage.method, planned.stage.name) for planned in work_of(study).trainings.values()
    }
    for trial in work_of(study).trials:
        method, config = trial.job.method, trial.job.config
        alone = counted_frame(method, config, picture_size(study))
        assert rates.frame(method, config).own_gflop == pytest.approx(alone.own_gflop, rel=WITHIN)
    assert [rate.settings for rate in rates.frames if rate.method == "dff"] == [
        {"key_frame_interval": 1},
        {"key_frame_interval": 7},  # that tells 8
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["demo", "rdn-table3", "hvrnet-table1", "semi-dff-table1", "thp-figure3", "realvid-flow"]
)
def test_every_family_can_be_probed_and_then_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "TIMED_S", 0.0)  # each once
    scale = None if name in ("demo", "realvid-flow") else "small"
    study = load_study(name, scale=scale)
    rates = probed([study], lambda doing: None)
    work = priced(work_of(study), rates, video_of(study))
    assert all(training.seconds > 0 for training in work.trainings.values())
    assert all(trial.own_s + trial.encode_s > 0 for trial in work.trials)
