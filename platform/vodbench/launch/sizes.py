"""How large a cluster a study needs: worked out from the study, bounded by the user, explained line by line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from vodbench.errors import UserError
from vodbench.launch.settings import DECODED_FRAMES_PER_CORE, Gpu
from vodbench.studies import Study, grid_points

MAX_GPUS_A_POD = 8  # what one machine usually has
# Samplers that learn propose from results. Trials that start together know nothing of each other: with fewer rounds
# than this, a search is little better than a random one.
LEARNING_ROUNDS = 5
OTHER_CORES = 1  # a worker's share of the trial's own process, Ray's agents and the network


class Machines(Protocol):
    """What of a cluster's settings decides on its size."""

    @property
    def gpu(self) -> Gpu | None: ...

    @property
    def memory_gib(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Pods and what each is given. A slot is what one process computes on: a GPU, or a CPU pod's cores."""

    trials: int
    at_once: int
    at_once_because: str
    training_processes: int
    slots_a_trial: int
    slots_a_pod: int
    pods: int
    first_pods: int  # what one training needs; the job starts when they are there
    threads: int
    decoding_cores: int
    memory_gib: int  # of a pod
    gpus: bool

    @property
    def slots(self) -> int:
        return self.pods * self.slots_a_pod

    @property
    def cpus(self) -> int:
        """Of a pod."""
        return self.slots_a_pod * (self.threads + self.decoding_cores + OTHER_CORES)

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, how many, why) for the table that is shown before anything is submitted."""
        unit = "GPUs" if self.gpus else "CPU workers"
        rate = f"{DECODED_FRAMES_PER_CORE} frames/s a core"
        return [
            ("trials", str(self.trials), "points of the study times its seeds, or search.trials"),
            ("trials at once", str(self.at_once), self.at_once_because),
            (f"{unit} a training", str(self.training_processes), "workers.training"),
            (f"{unit} a trial", str(self.slots_a_trial), "the larger of workers.training and workers.evaluation"),
            (f"{unit} in all", str(self.slots), f"{self.pods} pods of {self.slots_a_pod}"),
            ("pods at the start", str(self.first_pods), "one training; the others come when trials wait for them"),
            (
                "CPUs a pod",
                str(self.cpus),
                f"for each of {self.slots_a_pod}: {self.threads} to compute (workers.training_threads), "
                f"{self.decoding_cores} to decode ({rate}), {OTHER_CORES} for Ray",
            ),
            ("memory a pod", f"{self.memory_gib} GiB", "memory_gib for each of its processes"),
        ]


def sizes_of(study: Study, cluster: Machines, max_gpus: int | None = None) -> Sizes:
    """The cluster for a study.

    ``max_gpus`` bounds GPUs (CPU workers where the cluster has no GPUs); as many trials as fit run at once then.
    Without it, as many as the study's ``workers.concurrent_trials``. ``UserError`` when one training does not fit.
    """
    workers, gpu = study.workers, cluster.gpu
    slots_a_pod = gpu.per_pod or min(workers.training, MAX_GPUS_A_POD) if gpu else 1
    limit = None if max_gpus is None else max_gpus // slots_a_pod * slots_a_pod
    if limit is not None and limit < workers.training:
        each = f" in pods of {slots_a_pod}" if slots_a_pod > 1 else ""
        raise UserError(
            f"--max-gpus {max_gpus} is below what one training takes: {workers.training}{each} (workers.training); "
            "raise it, or give --set workers.training=1"
        )
    slots_a_trial = max(workers.training, workers.evaluation)
    if limit is not None:
        slots_a_trial = min(slots_a_trial, limit)  # evaluation shares what there is
    trials = _trials(study)
    at_once, because = _at_once(study, trials, slots_a_trial, limit)
    pods = math.ceil(at_once * slots_a_trial / slots_a_pod)
    return Sizes(
        trials=trials,
        at_once=at_once,
        at_once_because=because,
        training_processes=workers.training,
        slots_a_trial=slots_a_trial,
        slots_a_pod=slots_a_pod,
        pods=pods,
        first_pods=math.ceil(workers.training / slots_a_pod),
        threads=workers.training_threads,
        decoding_cores=math.ceil(gpu.frames_per_second / DECODED_FRAMES_PER_CORE) if gpu else 1,
        memory_gib=slots_a_pod * cluster.memory_gib,
        gpus=gpu is not None,
    )


def _trials(study: Study) -> int:
    if study.search.sampler != "grid":
        assert study.search.trials is not None
        return study.search.trials
    all_of_them = len(grid_points(study)) * len(study.seeds)
    return min(all_of_them, study.search.trials or all_of_them)


def _at_once(study: Study, trials: int, slots_a_trial: int, limit: int | None) -> tuple[int, str]:
    wanted, because = study.workers.concurrent_trials, "workers.concurrent_trials (--max-gpus allows for more)"
    if limit is not None:
        wanted, because = limit // slots_a_trial, f"{limit} within --max-gpus, {slots_a_trial} for each trial"
    if wanted >= trials:
        wanted, because = trials, "all of them"
    if study.search.sampler in ("tpe", "nsga2"):
        learning = max(1, trials // LEARNING_ROUNDS)
        if wanted > learning:
            wanted = learning
            because = f"{LEARNING_ROUNDS} rounds of trials, so that {study.search.sampler} can learn from results"
    return wanted, because
