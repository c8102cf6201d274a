"""Jobs on Ray: tasks that take some snippets each and stream them from Ray Data.

Ray keeps as many idle worker processes as a node has CPUs and gives them the next pass's tasks; each keeps its loaded
weights and data set (``caches``). So a pass on a warm Ray starts in some tenths of a second and needs no actors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from vodbench.cluster import start_ray
from vodbench.device import pick_device
from vodbench.spec import Dataset, Frame, SnippetInfo
from vodbench.streaming.jobs import Job, run_jobs

# A task that reserved whole CPUs would wait for ever inside a sweep whose trials hold them. How many run at once is
# bounded by ``workers``, not by this.
CPUS_A_TASK = 0.01

CANCEL_TIMEOUT_S = 5.0

MAX_RETRIES = 3  # of a task whose worker process died; it continues after the snippets it had finished

MIN_FRAMES = 96  # a task: a Ray Data run takes some tenths of a second to start


def run_on_ray(jobs: Sequence[Job], workers: int, finished: Callable[[Job], None]) -> None:
    """Run every job, at most ``workers`` tasks at a time, longest snippets first.

    ``finished`` is called in this process after each job. The tasks of a worker that dies are run again. An exception
    of a job is raised as it was, after the other running jobs were cancelled; what is finished stays.
    """
    import ray

    start_ray()
    task = _task(jobs[0].device, workers)
    waiting = sorted(jobs, key=lambda job: job.snippet.num_frames)  # taken from the end
    running: dict[Any, Iterator[Job]] = {}  # task -> the jobs it has still to do
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                taken = take(waiting, workers)
                running[task.remote(taken, workers)] = iter(taken)
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            assert isinstance(ready, ray.ObjectRefGenerator)
            try:
                reference = next(ready)
            except StopIteration:
                del running[ready]
                continue
            _raise_failure(reference)
            finished(next(running[ready]))
    finally:
        _abandon(list(running))


def take(waiting: list[Job], workers: int) -> list[Job]:
    """The next task's jobs, taken from the end of ``waiting``.

    A share of what is left, so that tasks get smaller and all workers end at about the same time, whatever their speed
    (guided self-scheduling, Polychronopoulos and Kuck 1987, with half a share each).
    """
    left = sum(job.snippet.num_frames for job in waiting)
    wanted = max(MIN_FRAMES, left / (2 * workers))
    taken: list[Job] = []
    while waiting and (not taken or sum(job.snippet.num_frames for job in taken) < wanted):
        taken.append(waiting.pop())
    return taken


def _task(device: str, workers: int) -> Any:
    import ray

    gpus = 0.0
    if pick_device(device).type == "cuda":
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)  # type: ignore[no-untyped-call]
    return ray.remote(_run).options(
        num_cpus=CPUS_A_TASK,
        num_gpus=gpus,
        num_returns="streaming",
        max_retries=MAX_RETRIES,
        scheduling_strategy="SPREAD",
    )


def _run(jobs: Sequence[Job], workers: int) -> Iterator[None]:
    """In a worker: yields as often as there are jobs, after each of them."""
    torch.set_num_threads(1)
    for _ in run_jobs(jobs, partial(_through_ray_data, workers)):
        yield None


def _through_ray_data(workers: int, dataset: Dataset, split: str, snippets: Sequence[SnippetInfo]) -> Iterator[Frame]:
    return dataset.snippet_frames(split, [info.id for info in snippets], world=workers)


def _abandon(tasks: Sequence[Any]) -> None:
    """Cancel tasks whose results nobody wants any more. Their own errors are fetched, or Ray would print them."""
    import ray

    for task in tasks:
        ray.cancel(task)
    for task in tasks:
        with suppress(ray.exceptions.RayError):
            ray.get(task.completed(), timeout=CANCEL_TIMEOUT_S)


def _raise_failure(reference: Any) -> None:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise RuntimeError(
            f"an evaluation worker died {MAX_RETRIES + 1} times ({error}); finished snippets are kept: run the same "
            "again, with fewer workers if memory was short"
        ) from error
