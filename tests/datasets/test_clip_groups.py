"""Clips in groups of K categories x N videos: what every group holds, over made-up labels and through Ray Data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pytest

from vodbench.cluster import start_ray, stop_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.spec import ClipSpec, SnippetInfo
from vodbench_datasets.clips.blocks import decode_block, read_block
from vodbench_datasets.clips.groups import GroupPlan
from vodbench_datasets.clips.pipeline import RayClips, labels_as_read, plan_of
from vodbench_datasets.clips.plan import numbers_of_worker
from vodbench_datasets.generated import GeneratorConfig, generate
from vodbench_datasets.shards import Shards, open_shards, write_shards

# Six videos of category 1, four of 2 (two of them show 1 as well), three of 3, and one of 4: too few for any group.
SHOWN: dict[str, list[set[int]]] = {
    **{f"one-{n}": [{1}, {1}, {1}] for n in range(4)},
    **{f"both-{n}": [{1, 2}, {1}, {2}] for n in range(2)},
    **{f"two-{n}": [{2}, set(), {2}] for n in range(2)},
    **{f"three-{n}": [{3}] * 20 for n in range(3)},
    "rare": [{4}, {4}],
}
SPEC = ClipSpec(num_supports=2, offset_low=-3, offset_high=3, categories=2, videos=3)


def plan(spec: ClipSpec = SPEC, seed: int = 0, shown: dict[str, list[set[int]]] = SHOWN) -> GroupPlan:
    frames = [(video, index) for video, of in shown.items() for index, labels in enumerate(of) if labels]
    lengths = [len(shown[video]) for video, _ in frames]
    return GroupPlan(frames, lengths, [sorted(shown[video][index]) for video, index in frames], spec, seed)


# ---- what a group is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("categories", "videos"), [(1, 1), (1, 6), (2, 3), (3, 3), (3, 2), (4, 1)])
def test_a_group_shows_its_categories_in_different_videos(categories: int, videos: int) -> None:
    spec = ClipSpec(num_supports=2, offset_low=-3, offset_high=3, categories=categories, videos=videos)
    made = plan(spec)
    for group in range(100):
        clips = [made[group * categories * videos + k] for k in range(categories * videos)]
        assert [clip.number for clip in clips] == list(range(group * len(clips), (group + 1) * len(clips)))
        by_category = {category: list(run) for category, run in groupby(clips, lambda clip: clip.category)}
        assert len(by_category) == categories
        for category, of_category in by_category.items():
            assert len({clip.snippet for clip in of_category}) == videos
            assert all(category in SHOWN[clip.snippet][clip.reference] for clip in of_category)
        for clip in clips:
            assert len(clip.supports) == 2
            assert all(0 <= index < len(SHOWN[clip.snippet]) for index in clip.supports)


def test_a_video_comes_once_in_a_group_where_the_data_allow() -> None:
    spec = ClipSpec(categories=2, videos=2)
    made = plan(spec)
    for group in range(200):
        videos = [made[group * 4 + k].snippet for k in range(4)]
        assert len(set(videos)) == 4


def test_a_video_stands_for_two_categories_only_where_it_must() -> None:
    """Two videos that both show both categories: a group of 2 x 2 has no other choice."""
    shown = {"a": [{1, 2}], "b": [{1, 2}]}
    made = plan(ClipSpec(categories=2, videos=2), shown=shown)
    clips = [made[k] for k in range(4)]
    assert Counter((clip.category, clip.snippet) for clip in clips) == Counter(
        {(category, video): 1 for category in (1, 2) for video in "ab"}
    )


def test_every_category_comes_as_often_and_every_video_and_frame_of_it_too() -> None:
    """Whatever the number of its videos; a category of too few videos takes no part."""
    shown = {f"{c}-{n}": [{c}] * 4 for c, videos in ((1, 9), (2, 3), (3, 5), (4, 2)) for n in range(videos)}
    made = plan(shown=shown)
    groups = 1500
    clips = [made[number] for number in range(groups * 6)]
    categories = Counter(clip.category for clip in clips)
    assert set(categories) == {1, 2, 3}
    for count in categories.values():  # each group takes two of three: five standard deviations of a binomial
        assert abs(count / 3 - groups * 2 / 3) < 5 * (groups * 2 / 9) ** 0.5
    videos = Counter(clip.snippet for clip in clips if clip.category == 1)
    mean = categories[1] / 9
    assert len(videos) == 9
    assert all(abs(count - mean) < 5 * mean**0.5 for count in videos.values()), videos
    frames = Counter(clip.reference for clip in clips)
    assert all(abs(frames[index] - len(clips) / 4) < 5 * (len(clips) * 3 / 16) ** 0.5 for index in range(4)), frames


# ---- where the clips go ---------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_clips_in_any_order_of_asking() -> None:
    one, other, seeded = plan(), plan(), plan(seed=1)
    forwards = [one[number] for number in range(120)]
    assert forwards == [other[number] for number in reversed(range(120))][::-1]
    assert forwards != [seeded[number] for number in range(120)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("start", "stop"), [(0, 60), (12, 36), (6, 6), (7, 40)])
def test_workers_get_whole_groups_and_leave_none_out(world: int, start: int, stop: int) -> None:
    parts = [list(numbers_of_worker(start, stop, rank, world, 6)) for rank in range(world)]
    for rank, part in enumerate(parts):
        assert all(number // 6 % world == rank for number in part)
        assert part == sorted(part)
    assert sorted(number for part in parts for number in part) == list(range(start, stop))


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("categories", "videos", "message"),
    [
        (4, 2, r"groups of 4 categories x 2 videos cannot be drawn: 3 of the 4 .* by 2 or more .* commonest by 6\)"),
        (2, 5, r"groups of 2 categories x 5 videos cannot be drawn: 1 of the 4 .* by 5 or more"),
        (1, 7, r"groups of 1 categories x 7 videos cannot be drawn: 0 of the 4"),
    ],
)
def test_too_few_videos_or_categories_are_refused(categories: int, videos: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        plan(ClipSpec(categories=categories, videos=videos))
    assert "\n" not in str(error.value)


def test_data_of_one_category_give_groups_of_one() -> None:
    shown = {f"v{n}": [{1}] for n in range(3)}
    made = plan(ClipSpec(categories=1, videos=3), shown=shown)
    assert {made[k].snippet for k in range(3)} == {"v0", "v1", "v2"}
    with pytest.raises(UserError, match="1 of the 1 categories"):
        plan(ClipSpec(categories=2, videos=3), shown=shown)


def test_no_training_frames_at_all_are_refused() -> None:
    with pytest.raises(UserError, match="0 of the 0 categories"):
        plan(shown={})


@pytest.mark.parametrize(("categories", "videos"), [(3, 0), (0, 3), (-1, -1), (-2, 3)])
def test_half_a_group_is_refused(categories: int, videos: int) -> None:
    with pytest.raises(UserError, match="give 1 or more of both"):
        ClipSpec(categories=categories, videos=videos)


# ---- data sets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Snippets longer than a row group, in several shards; some frames have no box."""
    folder = tmp_path_factory.mktemp("groups")
    config = GeneratorConfig(snippets=12, val_snippets=1, frames=20, size=64, classes=3)
    generate(str(folder / "tree"), config, workers=1)
    write_shards(DataSource(root=str(folder / "tree")).open(), str(folder / "shards"), shard_bytes=100_000)  # type: ignore[arg-type]
    return open_shards(str(folder / "shards"))


def plain_labels(dataset: RayClips) -> list[tuple[int, ...]]:
    """The reference: one frame at a time."""
    frames = [dataset.read("train", snippet, [index])[0] for snippet, index in dataset.training_frames("train")]
    return [tuple(sorted(set(frame.truth.labels.tolist()))) for frame in frames]


def test_labels_of_training_frames_equal_those_of_a_plain_loop(shards: Shards) -> None:
    tree = DataSource(root=shards.index.provenance["source"]).open()
    assert len(shards.index.shards) > 1
    expected = plain_labels(shards)
    assert len(set(expected)) > 1
    assert shards.training_labels("train") == expected
    assert tree.training_labels("train") == expected  # type: ignore[attr-defined]
    assert labels_as_read(shards, "train", shards.training_frames("train")) == expected


def test_still_images_take_no_part(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ClipSpec(categories=2, videos=2)
    still = {info.id for info in shards.snippets("train")[::3]}
    infos = [SnippetInfo(i.id, i.num_frames, i.id in still) for i in shards.snippets("train")]
    monkeypatch.setattr(shards, "snippets", lambda split: infos)
    made = plan_of(shards, spec, split="train", seed=0)
    seen = {made[number].snippet for number in range(400)}
    assert seen == {info.id for info in infos} - still


def test_a_block_says_which_category_its_clips_were_drawn_for(shards: Shards) -> None:
    made = plan_of(shards, SPEC, split="train", seed=5)
    planned = [made[number] for number in range(12)]
    clips = list(decode_block(read_block(shards, "train", planned)))
    assert [clip.category for clip in clips] == [clip.category for clip in planned]
    assert all(clip.category in clip.reference.truth.labels for clip in clips)
    single = plan_of(shards, ClipSpec(), split="train", seed=5)
    (clip,) = decode_block(read_block(shards, "train", [single[0]]))
    assert clip.category is None


def test_groups_that_cannot_be_made_are_refused_before_anything_starts(shards: Shards) -> None:
    with pytest.raises(UserError, match="groups of 9 categories x 3 videos cannot be drawn"):
        shards.training_clips(ClipSpec(categories=9, videos=3), split="train", seed=0, start=0, stop=0)


@pytest.fixture(scope="module")
def running_ray() -> Iterator[None]:
    start_ray(num_cpus=1)
    yield
    stop_ray()


@pytest.mark.slow
@pytest.mark.usefixtures("running_ray")
@pytest.mark.parametrize(("start", "rank", "world"), [(0, 0, 1), (12, 1, 2)])
def test_groups_come_through_ray_as_planned(shards: Shards, start: int, rank: int, world: int) -> None:
    """Chunks of 32 clips cut groups of six; the worker gets them whole all the same, from whichever clip it starts."""
    clips = list(shards.training_clips(SPEC, split="train", seed=3, start=start, stop=120, rank=rank, world=world))
    made = plan_of(shards, SPEC, split="train", seed=3)
    numbers = [n for n in range(start, 120) if n // 6 % world == rank]
    assert [clip.number for clip in clips] == numbers
    for clip in clips:
        planned = made[clip.number]
        assert (clip.snippet, clip.category, clip.flip) == (planned.snippet, planned.category, planned.flip)
        assert (clip.reference.index, *(s.index for s in clip.supports)) == planned.indices
        (frame,) = shards.read("train", clip.snippet, [clip.reference.index])
        assert np.array_equal(clip.reference.truth.boxes, frame.truth.boxes)
        assert clip.category in frame.truth.labels
