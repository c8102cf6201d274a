"""Training clips in groups: K categories, for each of them N videos that show it (the batches of HVR-Net).

Group number g follows from (seed, g) alone, so a run may stop, resume elsewhere or change its number of workers and
still see the groups it would have seen. Groups are drawn independently of each other, every category as often as any
other: unlike single clips they know no epoch. Still images take no part, for they are no videos (and would be nine in
ten of the papers' training set).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vodbench.errors import UserError
from vodbench.spec import ClipSpec
from vodbench_datasets.clips.plan import PlannedClip, Surroundings

_GROUP = 3  # this random stream of a seed, beside those of ``plan``


class GroupPlan:
    """``plan[n]`` is clip number n: one of group ``n // (K * N)``, whose clips come category by category.

    Categories of fewer than N videos take no part. Within a group a video comes once, also where it shows several of
    the drawn categories; only where the data leave no other choice it stands for two of them.

    frames: (snippet, reference index) of every training frame of a video
    lengths: frames in the snippet of each training frame, aligned with ``frames``
    labels: the categories that each of them shows, aligned with ``frames``
    """

    def __init__(
        self,
        frames: Sequence[tuple[str, int]],
        lengths: Sequence[int],
        labels: Sequence[Sequence[int]],
        clips: ClipSpec,
        seed: int,
    ) -> None:
        assert len(frames) == len(lengths) == len(labels), (len(frames), len(lengths), len(labels))
        if seed < 0:
            raise UserError(f"seed {seed} is negative; give 0 or more")
        self._num_categories, self._num_videos = clips.categories, clips.videos
        self._size, self._seed = clips.group_size, seed
        self._surroundings = Surroundings(clips, seed)
        self._lengths = {snippet: length for (snippet, _), length in zip(frames, lengths, strict=True)}
        shown = _frames_by_category(frames, labels)
        self._shown = {category: videos for category, videos in shown.items() if len(videos) >= clips.videos}
        if len(self._shown) < clips.categories:
            raise UserError(_too_few(clips, {category: len(videos) for category, videos in shown.items()}))

    def __getitem__(self, number: int) -> PlannedClip:
        group, place = divmod(number, self._size)
        category, snippet, reference = self._group(group)[place]
        return self._surroundings.clip(number, snippet, reference, self._lengths[snippet], category)

    def _group(self, group: int) -> list[tuple[int, str, int]]:
        """(category, video, reference frame) of each of its clips."""
        rng = np.random.default_rng([_GROUP, self._seed, group])
        order = [int(category) for category in rng.permutation(list(self._shown))]
        chosen: dict[int, list[str]] = {}
        taken: set[str] = set()
        for fresh in (True, False):  # the second time videos may come again
            for category in order:
                videos = [v for v in self._shown[category] if not (fresh and v in taken)]
                if category in chosen or len(chosen) == self._num_categories or len(videos) < self._num_videos:
                    continue
                drawn = rng.choice(len(videos), self._num_videos, replace=False)
                chosen[category] = [videos[int(i)] for i in drawn]
                taken.update(chosen[category])
        pairs = [(category, video) for category, videos in chosen.items() for video in videos]
        return [(category, video, int(rng.choice(self._shown[category][video]))) for category, video in pairs]


def _frames_by_category(
    frames: Sequence[tuple[str, int]], labels: Sequence[Sequence[int]]
) -> dict[int, dict[str, list[int]]]:
    """category -> video -> its training frames that show the category, all in a fixed order."""
    shown: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (snippet, index), found in zip(frames, labels, strict=True):
        for category in sorted(set(found)):
            shown[category][snippet].append(index)
    return {category: dict(shown[category]) for category in sorted(shown)}


def _too_few(clips: ClipSpec, videos: dict[int, int]) -> str:
    enough = sum(count >= clips.videos for count in videos.values())
    most = max(videos.values(), default=0)
    return (
        f"groups of {clips.categories} categories x {clips.videos} videos cannot be drawn: {enough} of the "
        f"{len(videos)} categories in the training frames of videos are shown by {clips.videos} or more videos (the "
        f"commonest by {most}); ask for fewer categories or videos a group, or add videos"
    )
