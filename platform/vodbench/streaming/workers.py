"""Jobs on Ray: small tasks, so that workers stay warm between passes.

Ray keeps as many idle worker processes as a node has CPUs and gives them the next pass's tasks; each keeps its loaded
weights and data set (``jobs.cached_method``). So a pass on a warm Ray starts in milliseconds and needs no actors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from vodbench.cluster import start_ray
from vodbench.device import pick_device
from vodbench.streaming.jobs import Job, run_job

# A task that reserved whole CPUs would wait for ever inside a sweep whose trials hold them. How many run at once is
# bounded by ``workers``, not by this.
CPUS_A_TASK = 0.01

CANCEL_TIMEOUT_S = 5.0

MAX_RETRIES = 3  # of a snippet whose worker process died


def run_jobs(jobs: Sequence[Job], workers: int, finished: Callable[[Job], None]) -> None:
    """Run every job, at most ``workers`` at a time, longest snippets first; ``finished`` is called in this process.

    A job whose worker dies is run again. An exception of a job is raised as it was, after the other running jobs were
    cancelled; what is finished stays.
    """
    import ray

    start_ray()
    task = _task(jobs[0].device, workers)
    waiting = sorted(jobs, key=lambda job: job.snippet.num_frames)  # taken from the end
    running: dict[Any, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop()
                running[task.remote(job)] = job
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(ready)
            _result(ready, job)
            finished(job)
    finally:
        _abandon(list(running))


def _task(device: str, workers: int) -> Any:
    import ray

    gpus = 0.0
    if pick_device(device).type == "cuda":
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)  # type: ignore[no-untyped-call]
    return ray.remote(_run_with_one_thread).options(
        num_cpus=CPUS_A_TASK, num_gpus=gpus, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD"
    )


def _run_with_one_thread(job: Job) -> None:
    torch.set_num_threads(1)
    run_job(job)


def _abandon(references: Sequence[Any]) -> None:
    """Cancel jobs whose results nobody wants any more. Their own errors are fetched, or Ray would print them."""
    import ray

    for reference in references:
        ray.cancel(reference)
    for reference in references:
        with suppress(ray.exceptions.RayError):
            ray.get(reference, timeout=CANCEL_TIMEOUT_S)


def _result(reference: Any, job: Job) -> None:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise RuntimeError(
            f"the worker of snippet '{job.snippet.id}' died {MAX_RETRIES + 1} times ({error}); finished snippets are "
            "kept: run the same again, with fewer workers if memory was short"
        ) from error
