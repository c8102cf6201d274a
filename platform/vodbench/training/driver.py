"""Train a method: find what is missing, claim it, and run it in one Ray Train run."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vodbench.cluster import start_ray
from vodbench.data_source import DataSource
from vodbench.errors import InterruptedWorkError, UserError
from vodbench.interruption import from_outside
from vodbench.knobs import MethodConfig
from vodbench.registry import method_spec
from vodbench.storage import filesystem
from vodbench.training.claims import claim
from vodbench.training.fingerprints import PlannedStage, plan_stages
from vodbench.training.keeper import Folder, ProgressFile
from vodbench.training.loop import TrainingError
from vodbench.training.worker import TrainingJob, run_worker

if TYPE_CHECKING:
    from ray.train import ScalingConfig

OnProgress: TypeAlias = Callable[[str, int, int, Mapping[str, float]], None]  # stage, iteration, iterations, metrics

POLL_S = 0.5
# What a worker reserves on a CPU machine. Little, because others must fit beside it: trials of a sweep and their tasks.
# The machine's real load is bounded by ``workers`` x ``threads``.
WORKER_CPUS = 0.25


class TrainingInterruptedError(TrainingError, InterruptedWorkError):
    """Its workers died again and again, and left no word why."""


def train(method: str, config: MethodConfig, source: DataSource, **settings: Any) -> str:
    """Train one method; the settings, errors and result are those of ``train_all``."""
    return train_all([(method, config)], source, **settings)[0]


def train_all(
    trainings: Sequence[tuple[str, MethodConfig]],
    source: DataSource,
    *,
    split: str = "train",
    store: str,
    seed: int = 0,
    workers: int = 1,
    use_gpu: bool | None = None,
    threads: int = 1,
    checkpoint_s: float = 15.0,
    max_failures: int = 3,
    on_progress: OnProgress | None = None,
    revision: str = "",
    until: Sequence[int | None] | None = None,
    on_trained: Callable[[Iterable[str]], None] | None = None,
) -> list[str]:
    """Train (method, config) pairs in all their stages, one after another in one Ray Train run.

    A stage that several of them share is trained once; one whose weights are in ``store`` already, not at all.

    Several processes may ask for the same weights at once: one trains, the others wait for it. An interrupted training
    continues from its last checkpoint. Results are at ``checkpoint_url(store, fingerprint)``.

    Args:
        store: folder or URL that all workers reach; a study's or a run's folder.
        workers: data-parallel processes; each step's batch is split between them.
        use_gpu: a GPU for each worker (mixed precision); None: if Ray has enough of them.
        threads: of each worker. The same number of workers and threads gives the same weights to the last bit (CPU).
        checkpoint_s: seconds between checkpoints, at least.
        max_failures: worker deaths survived before giving up.
        on_progress: called in this thread with (stage, iteration, iterations, metrics).
        revision: of the code, kept with the weights.
        until: of the last stage of each training, the iterations after which it pauses (None: it does not). Its weights
            are then at ``Folder(store, fingerprint).paused_url(iterations)``; asked again for more, it goes on from
            there, and ends as if it had never paused.
        on_trained: called with the fingerprints of the stages that were trained here, by nobody else.

    Returns:
        The fingerprints of the finished weights, in the order asked for.

    Raises:
        UserError: the input cannot be used; before any work, except for a frame that turns out to be damaged.
        TrainingError: the loss is not finite, or workers died more often than ``max_failures``.
    """
    source, store = _reachable(source), _reachable_url(store)
    if workers < 1 or threads < 1:
        raise UserError(f"workers = {workers}, threads = {threads} is not accepted: give 1 or more of each")
    dataset = source.open()
    dataset.snippets(split)
    chains = [
        _pausing(plan_stages(method, config, dataset.fingerprint, seed, split), pause)
        for (method, config), pause in zip(trainings, until or [None] * len(trainings), strict=True)
    ]

    def job(missing: tuple[PlannedStage, ...]) -> TrainingJob:
        return TrainingJob(
            planned=missing,
            source=source,
            split=split,
            seed=seed,
            classes=dataset.classes,
            data_fingerprint=dataset.fingerprint,
            revision=revision,
            store=store,
            attempt=uuid.uuid4().hex,
            threads=threads,
            checkpoint_s=checkpoint_s,
        )

    for planned in missing_stages(store, chains):
        clips = planned.stage.clips
        if clips.categories or clips.flow or clips.frames != "all":  # not every data set has those: ask before work
            dataset.training_clips(clips, split=split, seed=seed, start=0, stop=0)
    while missing := missing_stages(store, chains):
        start_ray()
        scaling = scaling_config(workers, use_gpu)
        with _claimed(store, missing) as held:
            if held:
                _fit(job(missing), scaling, max_failures, on_progress)
                if on_trained is not None:
                    on_trained([planned.fingerprint for planned in missing])
    return [chain[-1].fingerprint for chain in chains]


def missing_stages(store: str, chains: Sequence[tuple[PlannedStage, ...]]) -> tuple[PlannedStage, ...]:
    """The stages to train: of each chain those after its last one that is in ``store``, shared ones once.

    In one order for all processes (by depth, then name), each after its parent.
    """
    missing: dict[str, PlannedStage] = {}
    for chain in chains:
        for stage in _missing_of(store, chain):
            if stage.until is None or stage.fingerprint not in missing:  # who needs it finished is not made to wait
                missing[stage.fingerprint] = stage
    return tuple(sorted(missing.values(), key=lambda stage: (stage.index, stage.fingerprint)))


def check_begin(missing: Sequence[PlannedStage], num_classes: int) -> None:
    """What a method reads when it begins (weights to start from) is missed here, not in a worker."""
    for planned in missing:
        if planned.parent is None:
            stage = planned.stage
            method_spec(stage.method).build(stage.config, num_classes).begin_stage(stage)


def _missing_of(store: str, chain: tuple[PlannedStage, ...]) -> tuple[PlannedStage, ...]:
    for count, stage in enumerate(reversed(chain)):
        if Folder(store, stage.fingerprint).reached(stage.until):
            return chain[len(chain) - count :]
    return chain


def _pausing(chain: tuple[PlannedStage, ...], until: int | None) -> tuple[PlannedStage, ...]:
    return (*chain[:-1], dataclasses.replace(chain[-1], until=until))


def scaling_config(workers: int, use_gpu: bool | None) -> ScalingConfig:
    """What Ray Train shall reserve. ``UserError`` when this Ray will never have it (it would wait for ever)."""
    import ray
    from ray.train import ScalingConfig

    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    wanted, available = ("GPU", gpus) if use_gpu else ("CPU", cpus)
    if workers > available:
        raise UserError(
            f"workers = {workers} is not accepted: each needs a {wanted} and Ray has {available}; "
            f"give at most {available}" + (", or train on the CPU (--device cpu)" if use_gpu else "")
        )
    on_gpu = gpus >= workers if use_gpu is None else use_gpu
    return ScalingConfig(
        num_workers=workers,
        use_gpu=on_gpu,
        resources_per_worker={"CPU": min(WORKER_CPUS, 0.5 * cpus / workers), **({"GPU": 1.0} if on_gpu else {})},
        # CPU workers reserve less than they use: one a node, as far as nodes go. GPUs belong close together.
        placement_strategy="PACK" if on_gpu else "SPREAD",
    )


@contextmanager
def _claimed(store: str, missing: tuple[PlannedStage, ...]) -> Iterator[bool]:
    """Hold the claims of all these stages; False when somebody else has meanwhile trained one of them.

    Every process takes claims in the same order (``missing_stages``), so nobody waits in a circle.
    """
    with ExitStack() as held:
        for planned in missing:
            folder = Folder(store, planned.fingerprint)
            if not held.enter_context(claim(folder.url("claim"), partial(folder.reached, planned.until))):
                yield False
                return
        yield True


def _fit(job: TrainingJob, scaling: ScalingConfig, max_failures: int, on_progress: OnProgress | None) -> None:
    """One Ray Train run for all missing stages: starting it costs seconds."""
    from ray.train import FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from vodbench.training.process_group import NodesTorchConfig

    # Ray Train wants a place for checkpoints of its own; ours are in the store, so this stays empty.
    scratch = tempfile.mkdtemp(prefix="vodbench-train-")
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job},
        torch_config=NodesTorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name=job.planned[-1].fingerprint,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    progress = job.progress_file()
    relay = _Relay(job.planned, on_progress)
    try:
        _watch(trainer.fit, lambda: relay.look(_last_progress(progress)))
    except TrainingFailedError as error:
        if progress.failure() is None:
            reason = str(error).strip().splitlines()[-1]
            raise TrainingInterruptedError(
                f"training workers died more than {max_failures} times; the last: {reason}"
            ) from error
    finally:
        failure = progress.failure()
        progress.remove()
        shutil.rmtree(scratch, ignore_errors=True)
    if failure is not None:
        raise _as_error(failure)
    relay.finish()


def _last_progress(progress: ProgressFile) -> Mapping[str, Any] | None:
    """None, too, while storage is out of reach: the workers go on, and so must whoever waits for them."""
    try:
        return progress.read()
    except Exception as error:
        if not from_outside(error):
            raise
        return None


def _watch(work: Callable[[], Any], look: Callable[[], None]) -> None:
    """Run ``work`` in a thread and ``look`` now and then in this one.

    In a thread of its own, ``fit`` leaves the signal handlers alone: Ctrl-C interrupts the caller as everywhere else.
    """
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        look()
        thread.join(POLL_S)
    look()
    if outcome:
        raise outcome[0]


class _Relay:
    """Passes progress on, and completes a stage that ended between two looks."""

    def __init__(self, planned: tuple[PlannedStage, ...], on_progress: OnProgress | None) -> None:
        self._planned, self._on_progress = planned, on_progress
        self._current = 0
        self._told: tuple[int, int] | None = None  # (stage, iteration)
        self._metrics: Mapping[str, float] = {}

    def look(self, record: Mapping[str, Any] | None) -> None:
        """Take what the progress file says."""
        if record is None:
            return
        while self._planned[self._current].fingerprint != record["fingerprint"]:
            self._complete()
        self._metrics = record["metrics"]
        self._tell(record["iteration"])

    def finish(self) -> None:
        while self._current < len(self._planned):
            self._complete()

    def _complete(self) -> None:
        self._tell(self._planned[self._current].target)
        self._current += 1

    def _tell(self, iteration: int) -> None:
        stage = self._planned[self._current].stage
        if self._on_progress is not None and self._told != (self._current, iteration):
            self._on_progress(stage.name, iteration, stage.schedule.iterations, self._metrics)
        self._told = (self._current, iteration)


def _as_error(failure: Mapping[str, Any]) -> Exception:
    if failure["kind"] == UserError.__name__:
        return UserError(failure["message"])
    if failure["kind"] == TrainingError.__name__:
        return TrainingError(failure["message"])
    error = TrainingError(f"a training worker failed: {failure['kind']}: {failure['message']}")
    error.add_note(failure["traceback"])
    return error


def _reachable(source: DataSource) -> DataSource:
    return DataSource(root=_reachable_url(source.root), kind=source.kind, options=source.options)


def _reachable_url(url: str) -> str:
    """As workers in other folders and processes can open it: absolute, and not in this process's memory."""
    fs, path = filesystem(url)
    if isinstance(fs, MemoryFileSystem):
        raise UserError(
            f"'{url}' is in this process's memory, which training workers cannot reach; give a folder or URL"
        )
    return str(Path(path).absolute()) if isinstance(fs, LocalFileSystem) else url
