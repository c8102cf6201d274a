"""A Ray Data run whose blocks arrive in the order of a list, read by tasks anywhere in the cluster.

Ray Data's own way of dealing rows to workers is not used: it splits equally, drops the remainder and keeps no order.
Who wants rows owns a run; tasks read encoded frames into the object store, only as far ahead as a share of it allows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from vodbench.cluster import start_ray

if TYPE_CHECKING:
    import ray

_TASKS = 2  # read tasks of one run at a time
_STORE_SHARE = 0.25  # of the object store, for the runs of all workers together

_STEP_SECONDS = 0.01  # between two looks of Ray Data at what its tasks do; a block takes some 0.3 s to read and decode

Job = TypeVar("Job")
Chunk = TypeVar("Chunk")


def ordered_blocks(
    job: Job, chunks: Sequence[Any], read: Callable[[Job, Any], pa.Table], *, world: int, chunks_a_run: int
) -> Iterator[pa.Table]:
    """``read(job, chunk)`` for every chunk, in order, made by Ray tasks ahead of their use.

    Args:
        job: what a task needs beside its chunk; put into the object store once, fetched once in every process.
        chunks: what each block is made of; ``len(chunk)`` is its number of rows.
        read: importable function; its errors stop the run, so what a person has to repair should travel as data.
        world: how many such iterators are open at a time in the cluster: they share the object store.
        chunks_a_run: chunks a Ray Data run is planned for; more are several runs, one after the other.
    """
    import ray

    if not ray.is_initialized():  # in a worker it always is
        start_ray()
    _quiet()
    reference = ray.put(job)
    for low in range(0, len(chunks), chunks_a_run):
        yield from _run(reference, chunks[low : low + chunks_a_run], read, world)


def _run(
    job: ray.ObjectRef[Job], chunks: Sequence[Any], read: Callable[[Job, Any], pa.Table], world: int
) -> Iterator[pa.Table]:
    """One Ray Data run."""
    import ray
    from ray.data import ExecutionResources, read_datasource

    from vodbench_datasets.clips.datasource import ChunkDatasource

    # No CPU is reserved: on a small machine the workers hold them all, and a task that asked for a share would wait
    # for ever. Ray Data's own scheduling (SPREAD) keeps tasks out of the workers' placement group.
    tasks = min(_TASKS, len(chunks))
    dataset = read_datasource(
        ChunkDatasource(partial(_read, job, read), chunks),
        num_cpus=0,
        override_num_blocks=len(chunks),
        concurrency=tasks,
    )
    context = dataset.context
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.custom_execution_callback_classes = [_Unhurried]
    store = ray.cluster_resources().get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=_STORE_SHARE * store / world
    )
    batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    try:
        yield from batches
    finally:
        batches.close()


class _Unhurried:
    """A callback of Ray Data's executor, whose loop otherwise spins where blocks wait to be taken.

    It is a thread of the process that decodes, which then waits for Python's lock: clips came a third slower.
    """

    def before_execution_starts(self, executor: object) -> None:
        """Nothing to do."""

    def on_execution_step(self, executor: object) -> None:
        time.sleep(_STEP_SECONDS)

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing to do."""


def _read(reference: ray.ObjectRef[Job], read: Callable[[Job, Chunk], pa.Table], chunk: Chunk) -> pa.Table:
    """Runs in a read task."""
    return read(_fetch(reference), chunk)


@lru_cache(maxsize=4)  # a data set is unpickled once a process and keeps its open files and listings
def _fetch(reference: ray.ObjectRef[Job]) -> Job:
    import ray

    return ray.get(reference)


def _quiet() -> None:
    """Ray Data logs several lines a run, and a warning that progress bars are off; it sets its levels on import."""
    import ray.data  # noqa: F401

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
