"""What workers read through Ray Data: training clips, and whole snippets in order for evaluation.

Each worker owns a pipeline of its own: tasks anywhere in the cluster read encoded frames into the object store, in the
worker's order, and the worker's process decodes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa

from vodbench.errors import UserError, unknown
from vodbench.prefetch import prefetch
from vodbench.spec import Clip, ClipSpec, Dataset, Frame, SnippetInfo
from vodbench_datasets.clips.blocks import decode_block, error_block, read_block
from vodbench_datasets.clips.choice import reference_frames
from vodbench_datasets.clips.flow import check_flow
from vodbench_datasets.clips.groups import GroupPlan
from vodbench_datasets.clips.ordered import ordered_blocks
from vodbench_datasets.clips.plan import ClipPlan, numbers_of_worker
from vodbench_datasets.clips.runs import FrameRun, error_run, frame_runs, frames_of, read_run

BLOCK_CLIPS = 32  # clips a task reads: large enough to hide a task's ~10 ms overhead, small enough to start early
_CHUNKS_A_RUN = 256  # blocks that one Ray Data run is planned for
_DECODED_AHEAD = 8  # clips decoded ahead of the trainer


@dataclass(frozen=True)
class _ClipJob:
    dataset: Dataset
    split: str
    plan: ClipPlan | GroupPlan
    clips: ClipSpec


@dataclass(frozen=True)
class _FrameJob:
    dataset: Dataset
    split: str


class RayClips:
    """Gives a data set ``training_clips`` and ``snippet_frames``. The data set is picklable and names its training
    frames."""

    root: str

    @property
    def fingerprint_is_sampled(self) -> bool:
        """Whether ``fingerprint`` covers a sample of the annotations only (shards then take one over every row)."""
        return False

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        """(snippet, reference index) of every frame that training visits, in a fixed order."""
        raise NotImplementedError

    def training_labels(self, split: str) -> list[tuple[int, ...]]:
        """The labels that each of ``training_frames`` shows, aligned with them; asked for where clips come in groups.

        This reads the annotation of every training frame; a data set that has a cheaper source overrides it.
        """
        return labels_as_read(self, split, self.training_frames(split))

    def read(
        self, split: str, snippet: str, indices: Sequence[int] | None = None, *, with_images: bool = True
    ) -> list[Frame]:
        raise NotImplementedError

    def snippets(self, split: str) -> Sequence[SnippetInfo]:
        raise NotImplementedError

    def training_clips(
        self, clips: ClipSpec, *, split: str, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Clip]:
        """See ``vodbench.spec.Dataset.training_clips``. ``UserError`` at once for a plan that cannot be made."""
        check_flow(self, clips, split)
        plan = plan_of(self, clips, split=split, seed=seed)
        numbers = numbers_of_worker(start, stop, rank, world, clips.group_size)
        job = _ClipJob(self, split, plan, clips)  # type: ignore[arg-type]  # a mixin cannot say that it is mixed into a Dataset
        return prefetch(partial(_decoded_clips, job, numbers, world), _DECODED_AHEAD)

    def snippet_frames(self, split: str, snippets: Sequence[str], *, world: int = 1) -> Iterator[Frame]:
        """See ``vodbench.spec.Dataset.snippet_frames``. ``UserError`` at once for a snippet that is not there."""
        listed = {info.id: info for info in self.snippets(split)}
        missing = [snippet for snippet in snippets if snippet not in listed]
        if missing:
            raise unknown("snippet", missing[0], list(listed)[:5])
        runs = frame_runs([listed[snippet] for snippet in snippets])
        return _read_frames(_FrameJob(self, split), runs, world)  # type: ignore[arg-type]


def plan_of(dataset: RayClips, clips: ClipSpec, *, split: str, seed: int) -> ClipPlan | GroupPlan:
    """The clip plan of a split."""
    snippets = {snippet.id: snippet for snippet in dataset.snippets(split)}
    if not clips.categories:
        frames = reference_frames(dataset, clips, split)
        return ClipPlan(frames, [snippets[snippet].num_frames for snippet, _ in frames], clips, seed)
    frames, labels = dataset.training_frames(split), dataset.training_labels(split)
    moving = [place for place, (snippet, _) in enumerate(frames) if not snippets[snippet].still]
    frames, labels = [frames[place] for place in moving], [labels[place] for place in moving]
    return GroupPlan(frames, [snippets[snippet].num_frames for snippet, _ in frames], labels, clips, seed)


def labels_as_read(dataset: RayClips, split: str, frames: Sequence[tuple[str, int]]) -> list[tuple[int, ...]]:
    """The labels of these frames, snippet by snippet from their annotations."""
    labels: list[tuple[int, ...]] = []
    for snippet, run in groupby(frames, key=lambda frame: frame[0]):
        found = dataset.read(split, snippet, [index for _, index in run], with_images=False)
        labels += [tuple(np.unique(frame.truth.labels).tolist()) for frame in found]
    return labels


def _decoded_clips(job: _ClipJob, numbers: Sequence[int], world: int) -> Iterator[Clip]:
    chunks = [numbers[low : low + BLOCK_CLIPS] for low in range(0, len(numbers), BLOCK_CLIPS)]
    for table in ordered_blocks(job, chunks, _read_clips, world=world, chunks_a_run=_CHUNKS_A_RUN) if chunks else ():
        yield from decode_block(table)


def _read_clips(job: _ClipJob, numbers: Sequence[int]) -> pa.Table:
    """Runs in a read task."""
    try:
        planned = (job.plan[number] for number in numbers)
        labels = job.clips.frames != "unlabelled"
        return read_block(job.dataset, job.split, planned, flow=job.clips.flow, labels=labels)
    except UserError as error:
        return error_block(error)


def _read_frames(job: _FrameJob, runs: Sequence[FrameRun], world: int) -> Iterator[Frame]:
    for table in ordered_blocks(job, runs, _read_run, world=world, chunks_a_run=_CHUNKS_A_RUN) if runs else ():
        yield from frames_of(table)


def _read_run(job: _FrameJob, run: FrameRun) -> pa.Table:
    """Runs in a read task."""
    try:
        return read_run(job.dataset, job.split, run)
    except UserError as error:
        return error_run(error)
