"""Training clips through Ray Data.

Each training worker owns a pipeline of its own: tasks anywhere in the cluster read encoded clips into the object
store, in the plan's order and only as far ahead as ``_STORE_SHARE`` of it allows; the worker's process decodes.
Ray Data's own way of dealing rows to workers is not used: it splits equally, drops the remainder and keeps no order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import pyarrow as pa

from vodbench.cluster import start_ray
from vodbench.errors import UserError
from vodbench.spec import Clip, ClipSpec, Dataset, SnippetInfo
from vodbench_datasets.clips.blocks import decode_block, error_block, read_block
from vodbench_datasets.clips.plan import ClipPlan, numbers_of_worker
from vodbench_datasets.prefetch import prefetch

if TYPE_CHECKING:
    import ray

BLOCK_CLIPS = 32  # clips a task reads: large enough to hide a task's ~10 ms overhead, small enough to start early
_SEGMENT_BLOCKS = 256  # blocks a Ray Data run is planned for; a longer demand is several runs, one after the other
_DECODED_AHEAD = 8  # clips decoded ahead of the trainer
_TASKS = 2  # read tasks of one pipeline at a time
_STORE_SHARE = 0.25  # of the object store, for the pipelines of all workers together


@dataclass(frozen=True)
class _Job:
    """What a read task needs: put into the object store once, opened once in every process that reads."""

    dataset: Dataset
    split: str
    plan: ClipPlan


class RayClips:
    """Gives a data set ``training_clips``. The data set is picklable and names its training frames."""

    @property
    def fingerprint_is_sampled(self) -> bool:
        """Whether ``fingerprint`` covers a sample of the annotations only (shards then take one over every row)."""
        return False

    def training_frames(self, split: str) -> list[tuple[str, int]]:
        """(snippet, reference index) of every frame that training visits, in a fixed order."""
        raise NotImplementedError

    def snippets(self, split: str) -> Sequence[SnippetInfo]:
        raise NotImplementedError

    def training_clips(
        self, clips: ClipSpec, *, split: str, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Clip]:
        """See ``vodbench.spec.Dataset.training_clips``. ``UserError`` at once for a plan that cannot be made."""
        plan = plan_of(self, clips, split=split, seed=seed)
        numbers = numbers_of_worker(start, stop, rank, world)
        job = _Job(self, split, plan)  # type: ignore[arg-type]  # a mixin cannot say that it is mixed into a Dataset
        return prefetch(partial(_decoded, job, numbers, world), _DECODED_AHEAD)


def plan_of(dataset: RayClips, clips: ClipSpec, *, split: str, seed: int) -> ClipPlan:
    """The clip plan of a split."""
    lengths = {snippet.id: snippet.num_frames for snippet in dataset.snippets(split)}
    frames = dataset.training_frames(split)
    return ClipPlan(frames, [lengths[snippet] for snippet, _ in frames], clips, seed)


def _decoded(job: _Job, numbers: range, world: int) -> Iterator[Clip]:
    if not numbers:
        return
    for table in _encoded(job, numbers, world):
        yield from decode_block(table)


def _encoded(job: _Job, numbers: range, world: int) -> Iterator[pa.Table]:
    import ray

    if not ray.is_initialized():  # in a training worker it always is
        start_ray()
    _quiet()
    reference = ray.put(job)
    segment = _SEGMENT_BLOCKS * BLOCK_CLIPS
    for low in range(0, len(numbers), segment):
        yield from _stream(reference, numbers[low : low + segment], world)


def _read(reference: ray.ObjectRef[_Job], chunk: range) -> pa.Table:
    """Runs in a read task."""
    job = _fetch(reference)
    try:
        return read_block(job.dataset, job.split, (job.plan[number] for number in chunk))
    except UserError as error:
        return error_block(error)


@lru_cache(maxsize=4)  # a data set is unpickled once a process and keeps its open files and listings
def _fetch(reference: ray.ObjectRef[_Job]) -> _Job:
    import ray

    job = ray.get(reference)
    assert isinstance(job, _Job), type(job)
    return job


def _quiet() -> None:
    """Ray Data logs several lines a run, and a warning that progress bars are off; it sets its levels on import."""
    import ray.data  # noqa: F401

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _stream(job: ray.ObjectRef[_Job], numbers: range, world: int) -> Iterator[pa.Table]:
    """One Ray Data run: the blocks of these clips, in order."""
    import ray
    from ray.data import ExecutionResources, read_datasource

    from vodbench_datasets.clips.datasource import ClipDatasource

    chunks = [numbers[low : low + BLOCK_CLIPS] for low in range(0, len(numbers), BLOCK_CLIPS)]
    # No CPU is reserved: on a small machine the training workers hold them all, and a task that asked for a share
    # would wait for ever. Ray Data's own scheduling (SPREAD) keeps tasks out of the workers' placement group.
    tasks = min(_TASKS, len(chunks))
    dataset = read_datasource(
        ClipDatasource(partial(_read, job), chunks), num_cpus=0, override_num_blocks=len(chunks), concurrency=tasks
    )
    context = dataset.context
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=_STORE_SHARE * store / world
    )
    batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        yield from batches
    finally:
        batches.close()
