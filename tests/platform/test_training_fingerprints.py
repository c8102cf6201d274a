"""Which trials share weights."""

from __future__ import annotations

from types import ModuleType

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


def test_settings_that_came_later_leave_older_weights_their_names(
    learner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint that a stage had before clips knew of flow and frames, and schedules of optimisers."""
    from vodbench.training import fingerprints

    monkeypatch.setattr(fingerprints, "fingerprint", lambda *parts: parts)
    ((_, parts),) = [plan.fingerprint for plan in plan_stages("learner-base", learner.LearnerConfig(), "d", 0)]  # type: ignore[misc]
    assert {"flow", "frames", "optimizer"}.isdisjoint({*parts["clips"], *parts["schedule"]})  # type: ignore[index]
    assert {"num_supports", "whole_snippet"} < set(parts["clips"])  # type: ignore[index]
    stills = ClipSpec(frames="stills")
    monkeypatch.setattr(learner, "ClipSpec", lambda **_: stills)
    ((_, parts),) = [plan.fingerprint for plan in plan_stages("learner-base", learner.LearnerConfig(), "d", 0)]  # type: ignore[misc]
    assert parts["clips"]["frames"] == "stills"  # type: ignore[index]
