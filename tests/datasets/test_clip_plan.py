"""The clip plan: every property that training relies on, over plain made-up snippets."""

from __future__ import annotations

from collections import Counter

import pytest

from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench_datasets.clips.plan import ClipPlan, numbers_of_worker

LENGTHS = {"a": 30, "b": 7, "still": 1}
FRAMES = [("a", index) for index in range(0, 30, 2)] + [("b", index) for index in range(7)] + [("still", 0)]
SPEC = ClipSpec(num_supports=2, offset_low=-3, offset_high=3)


def plan(spec: ClipSpec = SPEC, seed: int = 0) -> ClipPlan:
    return ClipPlan(FRAMES, [LENGTHS[snippet] for snippet, _ in FRAMES], spec, seed)


def test_same_seed_gives_the_same_clips_in_any_order_of_asking() -> None:
    forwards = [plan()[number] for number in range(200)]
    other = plan()
    backwards = [other[number] for number in reversed(range(200))]
    assert forwards == backwards[::-1]


def test_another_seed_gives_other_clips() -> None:
    assert [plan(seed=0)[n] for n in range(50)] != [plan(seed=1)[n] for n in range(50)]


def test_each_epoch_visits_every_training_frame_once_in_an_order_of_its_own() -> None:
    size = len(FRAMES)
    epochs = [[plan()[epoch * size + k] for k in range(size)] for epoch in range(4)]
    orders = [[(clip.snippet, clip.reference) for clip in epoch] for epoch in epochs]
    for order in orders:
        assert Counter(order) == Counter(FRAMES)
    assert len({tuple(order) for order in orders}) == 4
    assert all(order != FRAMES for order in orders)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 40), (7, 43), (40, 40), (13, 14)])
def test_workers_share_no_clip_and_leave_none_out(world: int, start: int, stop: int) -> None:
    parts = [numbers_of_worker(start, stop, rank, world) for rank in range(world)]
    for rank, part in enumerate(parts):
        assert all(number % world == rank for number in part)
        assert list(part) == sorted(part)
    assert sorted(number for part in parts for number in part) == list(range(start, stop))


def test_supports_are_distinct_offsets_within_range_of_the_same_snippet() -> None:
    seen = Counter[int]()
    clips = [clip for number in range(3000) if (clip := plan()[number]).snippet == "a" and 3 <= clip.reference < 27]
    for clip in clips:  # far from the ends, where nothing is clamped
        offsets = [support - clip.reference for support in clip.supports]
        assert len(set(offsets)) == 2
        seen.update(offsets)
    assert set(seen) == {-3, -2, -1, 1, 2, 3}
    mean = sum(seen.values()) / 6
    assert all(abs(count - mean) < 5 * mean**0.5 for count in seen.values()), seen  # five standard deviations


def test_supports_are_clamped_to_the_ends_of_the_snippet() -> None:
    clips = [plan()[number] for number in range(2000)]
    assert all(0 <= index < LENGTHS[clip.snippet] for clip in clips for index in clip.supports)
    at_start = {support for clip in clips if (clip.snippet, clip.reference) == ("b", 0) for support in clip.supports}
    assert at_start == {0, 1, 2, 3}
    at_end = {support for clip in clips if (clip.snippet, clip.reference) == ("b", 6) for support in clip.supports}
    assert at_end == {3, 4, 5, 6}


def test_a_still_image_supports_itself() -> None:
    stills = [clip for number in range(200) if (clip := plan()[number]).snippet == "still"]
    assert stills
    assert all(clip.indices == (0, 0, 0) for clip in stills)


def test_supports_may_come_from_the_whole_snippet() -> None:
    made = plan(ClipSpec(num_supports=2, whole_snippet=True))
    clips = [made[number] for number in range(3000)]
    seen = Counter(support for clip in clips if (clip.snippet, clip.reference) == ("a", 4) for support in clip.supports)
    assert set(seen) == set(range(30)) - {4}
    assert all(len(set(clip.indices)) == 3 for clip in clips if clip.snippet != "still")
    assert all(clip.indices == (0, 0, 0) for clip in clips if clip.snippet == "still")


def test_a_snippet_of_too_few_frames_lends_some_twice() -> None:
    made = plan(ClipSpec(num_supports=9, whole_snippet=True))
    clips = [clip for number in range(200) if (clip := made[number]).snippet == "b"]
    assert clips
    assert all(len(clip.supports) == 9 and clip.reference not in clip.supports for clip in clips)


def test_one_sided_ranges_are_kept() -> None:
    clips = [plan(ClipSpec(num_supports=1, offset_low=-4, offset_high=-1))[number] for number in range(500)]
    assert all(clip.supports[0] <= clip.reference for clip in clips)


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.5, 420, 580)])
def test_flips_come_as_often_as_asked(probability: float, low: int, high: int) -> None:
    clips = plan(ClipSpec(flip_probability=probability))
    assert low <= sum(clips[number].flip for number in range(1000)) <= high  # 0.5: five standard deviations


def test_clips_without_supports() -> None:
    clip = plan(ClipSpec())[0]
    assert clip.supports == ()
    assert clip.indices == (clip.reference,)


def test_more_supports_than_offsets_is_refused() -> None:
    with pytest.raises(UserError, match=r"3 support frames cannot be drawn from the 2 offsets in \[-1, 1\]"):
        plan(ClipSpec(num_supports=3, offset_low=-1, offset_high=1))


def test_no_training_frames_is_refused() -> None:
    with pytest.raises(UserError, match="no frame with a box"):
        ClipPlan([], [], SPEC, 0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed -1 is negative"):
        plan(seed=-1)
