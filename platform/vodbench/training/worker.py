"""One training worker: the stages that are missing, one after the other.

``train_stages`` needs no Ray (one process is a group of one); ``run_worker`` is what Ray Train starts on each worker.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from vodbench.checkpoints import Checkpoint, checkpoint_url, load_checkpoint, save_checkpoint
from vodbench.data_source import DataSource
from vodbench.interruption import from_outside
from vodbench.registry import method_spec
from vodbench.spec import ClassInfo, Dataset, Method
from vodbench.storage import write_text
from vodbench.timing import working
from vodbench.training.fingerprints import PlannedStage
from vodbench.training.keeper import Folder, Keeper, ProgressFile
from vodbench.training.loop import StageTrainer, TrainingError, derived_seed
from vodbench.training.peers import Peers

Guard: TypeAlias = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What the workers are asked to do: picklable, and the same for all of them."""

    planned: tuple[PlannedStage, ...]  # those still to be trained, in order
    source: DataSource
    split: str
    seed: int
    classes: tuple[ClassInfo, ...]
    data_fingerprint: str
    revision: str
    store: str
    attempt: str  # names the call of ``train`` that waits for this
    threads: int = 1
    checkpoint_s: float = 15.0

    def progress_file(self) -> ProgressFile:
        return ProgressFile(Folder(self.store, self.planned[-1].fingerprint), self.attempt)


def run_worker(config: Mapping[str, TrainingJob]) -> None:
    """The train function of Ray Train, on ``{"job": job}``.

    Entered again after a worker died; finished stages, and steps before the last checkpoint, are not repeated.
    """
    import ray.train
    import ray.train.torch

    job = config["job"]
    progress = job.progress_file()
    if progress.failure() is not None:
        return  # a worker gave up for good; what it said is what the user gets to see
    context = ray.train.get_context()
    peers = Peers(context.get_world_rank(), context.get_world_size())
    try:
        # A step waits while somebody on this node measures a runtime. One worker a node asks for all of them: the
        # others wait for its gradients anyway, and two that asked could each hold what the other waits for.
        guard = working if context.get_local_rank() == 0 else nullcontext
        train_stages(job, peers, ray.train.torch.get_device(), guard)
    except Exception as error:
        if isinstance(error, OSError) or from_outside(error):
            raise  # storage or another worker is gone for now: Ray Train starts the workers again
        progress.fail(error)
        if peers.world > 1:
            raise  # the others wait for this worker's gradients: only a restart of all gets them out


def train_stages(
    job: TrainingJob, peers: Peers, device: torch.device | str = "cpu", guard: Guard = nullcontext
) -> None:
    """Train every stage of the job that has no result yet, in this worker's part.

    Raises ``UserError`` for data that cannot be read, ``TrainingError`` when a loss is not finite.
    """
    torch.set_num_threads(job.threads)
    dataset = job.source.open()
    for planned in job.planned:
        folder = Folder(job.store, planned.fingerprint)
        if not folder.reached(planned.until):
            _train_stage(job, planned, dataset, peers, device, guard)
        if peers.rank == 0:
            folder.tidy()
        peers.wait()  # the next stage starts from the file that rank 0 has just written


def _train_stage(
    job: TrainingJob, planned: PlannedStage, dataset: Dataset, peers: Peers, device: torch.device | str, guard: Guard
) -> None:
    started = time.monotonic()
    stage = planned.stage
    method = _initial(job, planned)
    trainer = StageTrainer(method, stage, index=planned.index, seed=job.seed, device=device, peers=peers)
    keeper = Keeper(Folder(job.store, planned.fingerprint), job.checkpoint_s)
    earlier_s = _resume(trainer, keeper, peers)
    progress = job.progress_file()

    def seconds() -> float:
        return earlier_s + time.monotonic() - started

    def after_step() -> None:
        if peers.rank == 0:
            progress.write(_progress(trainer, planned))
            if keeper.due() and trainer.iteration < stage.schedule.iterations:
                _assert_finite(trainer)
                keeper.save({**trainer.state(), "seconds": seconds()})

    if peers.rank == 0:
        progress.write(_progress(trainer, planned), now=True)
    clips = dataset.training_clips(
        stage.clips,
        split=job.split,
        seed=derived_seed("clips", job.seed, planned.index),
        start=trainer.iteration * stage.schedule.batch_size,
        stop=planned.target * stage.schedule.batch_size,
        rank=peers.rank,
        world=peers.world,
    )
    trainer.run(clips, after_step, guard, until=planned.target)
    if peers.rank == 0:
        _assert_finite(trainer)
        if trainer.iteration < stage.schedule.iterations:
            _pause(job, planned, trainer, keeper, seconds())
        else:
            _finish(job, planned, trainer, seconds())


def _initial(job: TrainingJob, planned: PlannedStage) -> Method:
    """The stage's method with the weights it starts from: fresh ones from the seed, then what fits of its parent's."""
    stage = planned.stage
    torch.manual_seed(derived_seed("weights", job.seed, planned.index))
    method = method_spec(stage.method).build(stage.config, len(job.classes))
    if planned.parent is not None:
        method.load_initial(load_checkpoint(checkpoint_url(job.store, planned.parent)).weights)
    return method


def _resume(trainer: StageTrainer, keeper: Keeper, peers: Peers) -> float:
    """Continue an interrupted stage; returns the seconds it had taken.

    Rank 0 reads and tells the others, so that all of them continue from the same step.
    """
    data = peers.from_first(keeper.load() if peers.rank == 0 else None)
    if data is None:
        return 0.0
    state = keeper.decode(data)
    trainer.restore(state)
    return float(state["seconds"])


def _assert_finite(trainer: StageTrainer) -> None:
    """A gradient can overflow where the loss did not: such weights are never written."""
    for name, tensor in trainer.module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"stage '{trainer.stage.name}' of {trainer.stage.method}: '{name}' is not finite after iteration "
                f"{trainer.iteration}; lower the learning rate, warm up longer, or clip gradients"
            )


def _progress(trainer: StageTrainer, planned: PlannedStage) -> Mapping[str, Any]:
    return {
        "fingerprint": planned.fingerprint,
        "iteration": trainer.iteration,
        "metrics": trainer.history[-1] if trainer.history else {},
        "pid": os.getpid(),
    }


def _pause(job: TrainingJob, planned: PlannedStage, trainer: StageTrainer, keeper: Keeper, seconds: float) -> None:
    """Leave what continues the stage, then the weights as they are: these say that it paused."""
    keeper.save({**trainer.state(), "seconds": seconds})
    save_checkpoint(keeper.folder.paused_url(planned.target), _checkpoint(job, planned, trainer))


def _finish(job: TrainingJob, planned: PlannedStage, trainer: StageTrainer, seconds: float) -> None:
    stage, folder = planned.stage, Folder(job.store, planned.fingerprint)
    record = {
        "stage": stage.name,
        "method": stage.method,
        "workers": trainer.peers.world,
        "threads": job.threads,
        "device": str(trainer.device),
        "parameters": sum(p.numel() for p in trainer.module.parameters() if isinstance(p, nn.Parameter)),
        "seconds": seconds,
        "history": trainer.history,
    }
    write_text(folder.url("training.json"), json.dumps(record))
    save_checkpoint(checkpoint_url(job.store, planned.fingerprint), _checkpoint(job, planned, trainer))


def _checkpoint(job: TrainingJob, planned: PlannedStage, trainer: StageTrainer) -> Checkpoint:
    stage = planned.stage
    return Checkpoint(
        method=stage.method,
        config=stage.config,
        classes=job.classes,
        weights=trainer.module.state_dict(),
        fingerprint=planned.fingerprint,
        stage=stage.name,
        data_fingerprint=job.data_fingerprint,
        seed=job.seed,
        revision=job.revision,
    )
