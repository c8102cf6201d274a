"""Which trials share weights."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench.training import plan_stages, training_fingerprint


def _name(learner: ModuleType, method: str = "learner-full", data: str = "d", seed: int = 0, **knobs: object) -> str:
    return training_fingerprint(method, learner.LearnerConfig(**knobs), data, seed)


def test_inference_knobs_share_weights_and_training_knobs_do_not(learner: ModuleType) -> None:
    names = [_name(learner), _name(learner, T=9), _name(learner, width=5), _name(learner, rate=0.5)]
    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"data": "other"}, {"method": "learner-base"}])
def test_seed_data_and_method_change_the_weights(learner: ModuleType, change: dict[str, object]) -> None:
    assert _name(learner, **change) != _name(learner)  # type: ignore[arg-type]


def test_the_split_changes_the_weights(learner: ModuleType) -> None:
    config = learner.LearnerConfig()
    names = {training_fingerprint("learner-base", config, "d", 0, split) for split in ("train", "all")}
    assert len(names) == 2


def test_methods_share_the_stages_they_have_in_common(learner: ModuleType) -> None:
    config = learner.LearnerConfig()
    (alone,) = plan_stages("learner-base", config, "d", 0)
    first, second = plan_stages("learner-full", config, "d", 0)
    assert (first.fingerprint, first.parent) == (alone.fingerprint, None)
    assert second.parent == first.fingerprint


def test_a_change_in_an_early_stage_changes_all_later_ones(learner: ModuleType) -> None:
    plans = [plan_stages("learner-full", learner.LearnerConfig(batch=batch), "d", 0) for batch in (4, 5)]
    assert all(a.fingerprint != b.fingerprint for a, b in zip(*plans, strict=True))


def test_a_configuration_of_another_method_is_refused(learner: ModuleType) -> None:
    from vodbench.registry import method_spec

    with pytest.raises(UserError, match="LearnerConfig does not configure 'faster-rcnn'"):
        plan_stages("faster-rcnn", learner.LearnerConfig(), "d", 0)
    with pytest.raises(UserError, match="unknown method 'lerner-full': did you mean 'learner-full'"):
        plan_stages("lerner-full", method_spec("faster-rcnn").config(), "d", 0)


def test_a_batch_is_made_of_whole_groups(learner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "ClipSpec", lambda **_: ClipSpec(categories=2, videos=3))
    (planned,) = plan_stages("learner-base", learner.LearnerConfig(batch=12), "d", 0)
    assert planned.stage.clips.group_size == 6
    with pytest.raises(UserError, match=r"stage .base. .* a batch of 8 clips .* 2 categories x 3 videos; .* of 6"):
        plan_stages("learner-base", learner.LearnerConfig(batch=8), "d", 0)


@pytest.mark.parametrize("setting", [{"flow": True}, {"frames": "unlabelled"}, {"own_frame": True}])
def test_settings_of_clips_that_came_later_give_weights_of_their_own(
    learner: ModuleType, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    names = []
    for asked in ({}, setting):
        clips = ClipSpec(num_supports=1, offset_low=-1, offset_high=1, **asked)
        monkeypatch.setattr(learner, "ClipSpec", lambda clips=clips, **_: clips)
        names.append(_name(learner))
    assert names[0] != names[1]


def test_weights_keep_the_names_they_had_before_these_settings(
    learner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished trainings are found again: a fingerprint of a stage's clips without the setting is still the same."""
    hashed: list[dict[str, Any]] = []
    monkeypatch.setattr("vodbench.training.fingerprints.fingerprint", lambda _, record: hashed.append(record) or "name")
    plan_stages("learner-full", learner.LearnerConfig(), "d", 0)
    before = {"num_supports", "offset_low", "offset_high", "flip_probability", "whole_snippet", "categories", "videos"}
    assert [set(record["clips"]) for record in hashed] == [before, before]
