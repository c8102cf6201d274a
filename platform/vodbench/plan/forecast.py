"""A study on so many GPUs: the sweep that would be launched, simulated, and what limits it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from vodbench.errors import UserError
from vodbench.launch.settings import Gpu
from vodbench.launch.sizes import sizes_of
from vodbench.plan.bounds import Bound, bounds
from vodbench.plan.costs import Rates
from vodbench.plan.data import Video
from vodbench.plan.engine import Ledger, Machines
from vodbench.plan.priced import Work, priced
from vodbench.plan.simulate import Scenario, simulate
from vodbench.plan.stages import work_of
from vodbench.studies import Study

GPUS_A_NODE = 8
# Ray puts what asks for little (a trial's process) on one of the first fifth of the nodes (its scheduler's top-k).
MEASURING_SHARE = 0.2
RUNS = 9  # simulations of what is left to chance


@dataclass(frozen=True, kw_only=True)
class Risks:
    """What goes wrong on a cluster; see ``Scenario``. ``storage_gb_s``: None: no limit."""

    straggle: float = 0.0
    mtbf_hours: float | None = None
    repair_minutes: float = 10.0
    storage_gb_s: float | None = None
    runs: int = RUNS
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is expected. Hours of GPUs (of CPU workers, without ``gpus``) are of all that are used, until the end.

    ``slots``: GPUs that are used, of the ``gpus`` that could be: whole nodes, as many as there are trials for.
    ``wall_s``: the middle one of the simulated sweeps, ``low_s`` and ``high_s`` the shortest and the longest.
    ``read_bytes``: None where the size of a frame is not known. ``feature_bytes``: what all encoded frames would take;
    None where that was not measured.
    """

    study: str
    gpus: int | None
    slots: int
    trials: int
    trainings: int
    at_once: int
    wall_s: float
    low_s: float
    high_s: float
    useful_hours: float
    waiting_hours: float
    lost_hours: float
    failures: float
    read_bytes: float | None
    store_bytes: float
    cache_bytes: float
    feature_bytes: float | None
    limits: tuple[Bound, ...]

    @property
    def hours(self) -> float:
        """GPU hours that are paid for."""
        return self.slots * self.wall_s / 3600

    def figures(self, price: float | None = None) -> Mapping[str, Any]:
        """Plain values; ``price``: of a GPU hour."""
        cost = {} if price is None else {"cost": self.hours * price}
        return {**asdict(self), "hours": self.hours, "limit": self.limits[0].name, **cost}


def forecast(study: Study, rates: Rates, video: Video, risks: Risks, gpus: int | None = None) -> Forecast:
    """``gpus``: as ``vodbench launch --max-gpus`` would use them; None: as ``vodbench sweep`` runs it on this machine.

    ``UserError`` where one training does not fit, or the rates miss a part.
    """
    asked, machines, scenario = _arranged(study, risks, gpus)
    planned = work_of(asked)
    work = priced(planned, rates, video)
    runs = 1 if scenario.certain else risks.runs
    outcomes = [simulate(work, machines, replace(scenario, seed=risks.seed + run)) for run in range(runs)]
    outcomes.sort(key=lambda outcome: outcome.wall_s)
    middle = outcomes[len(outcomes) // 2]
    features = work.feature_bytes
    cache = 0.0 if work.cache_bytes is None else min(work.cache_bytes, features or 0.0)
    return Forecast(
        study=study.name,
        gpus=gpus,
        slots=machines.slots,
        trials=len(work.trials),
        trainings=len(work.trainings),
        at_once=scenario.at_once,
        wall_s=middle.wall_s,
        low_s=outcomes[0].wall_s,
        high_s=outcomes[-1].wall_s,
        useful_hours=(middle.ledger.useful + middle.ledger.measuring) / 3600,
        waiting_hours=_waiting(middle.ledger) / 3600,
        lost_hours=middle.ledger.lost / 3600,
        failures=fmean(outcome.failures for outcome in outcomes),
        read_bytes=middle.read_bytes or None,
        store_bytes=_store_bytes(work) + cache,
        cache_bytes=cache,
        feature_bytes=features if work.cache_bytes is not None else 0.0,
        limits=tuple(bounds(work, machines, scenario)),
    )


def _arranged(study: Study, risks: Risks, gpus: int | None) -> tuple[Study, Machines, Scenario]:
    """The study as it would be run there, the machines, and how."""
    limit = None if risks.storage_gb_s is None else risks.storage_gb_s * 1e9
    scenario = Scenario(
        straggle=risks.straggle,
        mtbf_s=None if risks.mtbf_hours is None else risks.mtbf_hours * 3600,
        repair_s=risks.repair_minutes * 60,
        seed=risks.seed,
    )
    workers = study.workers
    if gpus is None:
        at_once = workers.concurrent_trials
        slots = max(len(os.sched_getaffinity(0)), at_once * max(workers.training, workers.evaluation))
        machines = Machines(nodes=1, slots_a_node=slots, storage_bytes_s=limit)
        return study, machines, replace(scenario, at_once=at_once)
    sizes = sizes_of(study, _Nodes(gpu=Gpu(per_pod=_gpus_a_node(study, gpus))), gpus)
    machines = Machines(nodes=sizes.pods, slots_a_node=sizes.slots_a_pod, storage_bytes_s=limit)
    launched = study.model_copy(update={"workers": workers.model_copy(update={"concurrent_trials": sizes.at_once})})
    measuring = max(1, int(MEASURING_SHARE * machines.nodes))
    return launched, machines, replace(scenario, at_once=sizes.at_once, measuring_nodes=measuring)


@dataclass(frozen=True, kw_only=True)
class _Nodes:
    gpu: Gpu | None
    memory_gib: int = 1


def _gpus_a_node(study: Study, gpus: int) -> int:
    """8, or all of them where there are fewer. ``UserError`` for a number that is neither, and for too few."""
    least = study.workers.training
    if gpus < least:
        raise UserError(
            f"--gpus {gpus} is not accepted: one training of study '{study.name}' takes {least} (workers.training); "
            f"give {least} or more, or --set workers.training=1"
        )
    each = min(gpus, GPUS_A_NODE)
    if gpus % each:
        near = gpus // each * each
        raise UserError(f"--gpus {gpus} is not accepted: nodes have {each}; give {near} or {near + each}")
    return each


def _waiting(ledger: Ledger) -> float:
    return ledger.starting + ledger.standing + ledger.idle + ledger.down


def _store_bytes(work: Work) -> float:
    models = sum(training.model_bytes for training in work.trainings.values())
    return models + work.detection_bytes * len(work.trials)
