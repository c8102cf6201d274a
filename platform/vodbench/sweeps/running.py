"""Running a study: check everything, then run what is not on disk yet, and record it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console
from rich.markup import escape

from vodbench.cluster import start_ray
from vodbench.data_source import DataSource
from vodbench.errors import UserError
from vodbench.front.files import draw_front
from vodbench.front.hypervolume import write_history
from vodbench.front.pareto import pareto_front
from vodbench.interruption import reason_of
from vodbench.records import TrialRecord
from vodbench.storage import filesystem
from vodbench.studies import Study, method_spaces, published_points
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.halving import climb
from vodbench.sweeps.journal import Journal
from vodbench.sweeps.plan import grid_jobs
from vodbench.sweeps.platform_steps import PlatformSteps
from vodbench.sweeps.progress import SweepProgress
from vodbench.sweeps.retrying import forget_failed, forget_interrupted, spare_stopped
from vodbench.sweeps.steps import Steps, TrialContext, TrialJob
from vodbench.sweeps.times import SWEEP, note_time
from vodbench.sweeps.warm_start import EarlierPoint, EarlierStudy, earlier_studies, what_they_teach
from vodbench.timing.contention import PressureWatch
from vodbench.tracking.optuna_study import open_storage
from vodbench.tracking.recorder import OPTUNA_STUDY, Recorder
from vodbench.tracking.server import connect, default_uri


@dataclass(frozen=True)
class SweepResult:
    """Every record of the study folder, old and new, by start; ``front`` marks them. ``ran`` counts the new ones."""

    records: list[TrialRecord]
    front: list[bool]
    ran: int
    tracked: bool  # MLflow has everything
    tracking_uri: str


@dataclass
class Timeline:
    """When things happened in a sweep, in seconds since its beginning: Ray was there, trials ended."""

    began: float = field(default_factory=time.monotonic)
    ready_s: float = 0.0
    ended_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return round(time.monotonic() - self.began, 3)


@dataclass(frozen=True)
class SweepPlan:
    """A study that was checked against methods, data and tracking server; nothing has been written yet."""

    context: TrialContext
    tracking_uri: str
    steps: Steps
    optuna_storage: str | None = None  # where a copy of the trials goes for Optuna's dashboard
    earlier: Sequence[EarlierStudy] = ()  # that a search learns from


def plan_sweep(
    study: Study,
    out: str,
    *,
    tracking_uri: str | None = None,
    optuna_storage: str | None = None,
    revision: str = "",
    steps: Steps | None = None,
) -> SweepPlan:
    """Check everything a user can get wrong. ``UserError`` for a knob, the data, or a server that does not answer."""
    steps = steps or PlatformSteps()
    method_spaces(study)
    published_points(study)
    if study.data.root is None:
        raise UserError(f"study '{study.name}' names no data; give its root with --data")
    source = DataSource(root=_absolute(study.data.root), kind=study.data.dataset, options=study.data.options)
    dataset = source.open()
    for split in (study.data.train, study.data.val):
        dataset.snippets(split)
    if tracking_uri is not None:
        connect(tracking_uri)
    if optuna_storage is not None:
        open_storage(optuna_storage)
    study = _with_reachable_cache(study)
    context = TrialContext(study, source, dataset.fingerprint, _absolute(out), revision)
    if study.search.sampler == "grid":
        grid_jobs(context, steps)
    return SweepPlan(context, tracking_uri or _local_tracking(out), steps, optuna_storage, earlier_studies(context))


def run_sweep(
    plan: SweepPlan,
    console: Console,
    *,
    ray_address: str | None = None,
    retry_failed: bool = False,
    retry_stopped: bool = False,
    quiet: bool = False,
) -> SweepResult:
    """Run what is not on disk yet and record it in MLflow. ``UserError`` when the folder belongs to another study.

    Trials that failed for what happened around them (killed processes, storage out of reach) are tried again.
    ``retry_failed`` runs those again that failed by themselves, ``retry_stopped`` those to their end that were given up
    as hopeless. ``quiet``: a line for each trial that ended, and no live view.
    """
    context = plan.context
    folder, timeline, pressure = StudyFolder(context.folder), Timeline(), PressureWatch()
    with folder.lock():
        folder.claim(context.study, context.data_fingerprint)
        forget_interrupted(folder)
        if retry_failed:
            forget_failed(folder)
        if retry_stopped:
            spare_stopped(folder)
        known = folder.records()
        recorders = _recorders(plan, folder, lambda text: console.print(f"[yellow]warning:[/] {escape(text)}"))
        complete = False
        try:
            _run_missing(plan, dict(known), recorders, console, ray_address, quiet, timeline)
            complete = True
        except KeyboardInterrupt:
            console.print("interrupted; the same command continues where this one stopped")
            raise
        finally:
            records, tracked = _wrapped_up(folder, recorders, complete)
        new = [record.fingerprint for record in records if record.fingerprint not in known]
        if new:
            at_once = context.study.workers.concurrent_trials
            facts = {"ready_s": timeline.ready_s, "ended_s": timeline.ended_s, "at_once": at_once}
            note_time(context.folder, SWEEP, timeline.now(), trials=new, pressure=pressure.share(), **facts)
    return SweepResult(records, pareto_front(records), len(records) - len(known), tracked, plan.tracking_uri)


def _wrapped_up(folder: StudyFolder, recorders: Sequence[Recorder], complete: bool) -> tuple[list[TrialRecord], bool]:
    """All records by start, and whether MLflow has everything.

    Also after Ctrl-C: what is on disk goes to MLflow, and the sweep's run says that it was interrupted. So it does when
    the folder is out of reach.
    """
    try:
        records = sorted(folder.records().values(), key=lambda r: (r.started, r.fingerprint))
    except Exception:
        for recorder in recorders:
            recorder.stop()
        raise
    try:
        if any(record.status == "complete" for record in records):
            write_history(folder.url, records)
            draw_front(folder.url, records)
    finally:
        tracked, *_ = [recorder.finish(records, complete=complete) for recorder in recorders]
    return records, tracked


def _recorders(plan: SweepPlan, folder: StudyFolder, warn: Callable[[str], None]) -> list[Recorder]:
    """MLflow's, and that of Optuna's storage where there is one."""
    recorders = [Recorder(plan.tracking_uri, folder, warn)]
    if plan.optuna_storage is not None:
        recorders.append(Recorder(plan.optuna_storage, folder, warn, OPTUNA_STUDY))
    return recorders


def _run_missing(
    plan: SweepPlan,
    known: dict[str, TrialRecord],
    recorders: Sequence[Recorder],
    console: Console,
    ray_address: str | None,
    quiet: bool,
    timeline: Timeline,
) -> None:
    # Ray and Optuna take seconds to import: what can be wrong is said before.
    from vodbench.sweeps.search import ListSearch, StudySearch
    from vodbench.sweeps.tuning import SweepEvents, run_tune

    context = plan.context
    search: ListSearch | StudySearch
    if context.study.search.sampler == "grid":
        jobs = grid_jobs(context, plan.steps)
        missing = [job for job in jobs if job.fingerprint not in known]
        search, done, total = ListSearch(missing), len(jobs) - len(missing), len(jobs)
    else:
        search = StudySearch(context, known.values(), _earlier_points(plan, known, console, ray_address))
        assert context.study.search.trials is not None
        done, total = search.num_known, context.study.search.trials
    if done >= total:
        return
    journal = Journal(context.folder, known, recorders)
    start_ray(ray_address)
    timeline.ready_s = timeline.now()
    with SweepProgress(console, total, done, known=known.values(), quiet=quiet) as progress:
        if isinstance(search, ListSearch) and context.study.workers.concurrent_trials == 1:
            _prepare(plan, missing, progress)

        def on_records(trial_id: str, records: list[TrialRecord]) -> None:
            for record in records:
                search.remember(record)
                known[record.fingerprint] = record
                journal.add(record)
            progress.ended(trial_id, records)
            timeline.ended_s.append(timeline.now())

        def on_step() -> None:
            journal.write_when_due()
            progress.print_when_due()

        events = SweepEvents(context, progress.doing, on_records, on_step)
        run_tune(context, plan.steps, search, total - done, events)


def _earlier_points(
    plan: SweepPlan, known: Mapping[str, TrialRecord], console: Console, ray_address: str | None
) -> list[EarlierPoint]:
    """What the search learns from earlier studies; says what it does not, and why."""
    from vodbench.device import describe_device, pick_device

    if not plan.earlier:
        return []
    device = next((record.runtime.device for record in known.values() if record.runtime), None)
    if device is None and ray_address is None:  # a cluster's device is known when the first trial was timed
        device = describe_device(pick_device(plan.context.study.runtime.device))
    points, lines = what_they_teach(plan.earlier, plan.context, device)
    for line in lines:
        console.print(escape(line))
    return points


def _prepare(plan: SweepPlan, jobs: list[TrialJob], progress: SweepProgress) -> None:
    """With one trial at a time, nothing is lost by doing first what they share.

    What fails here fails again in the trial that needs it, and is recorded there. Trainings that are given up as
    hopeless are recorded by their trials, too.
    """

    def on_progress(what: str, done: int, total: int) -> None:
        progress.doing("prepare", "all trials", what, done, total)

    try:
        stopped = climb(jobs, plan.context, plan.steps, on_progress)
        going_on = [job for job in jobs if plan.steps.training_fingerprint(job, plan.context) not in stopped]
        plan.steps.prepare(going_on, plan.context, on_progress)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the trials that do not need it
        progress.warn(f"{reason_of(error)}; the trials that need this try it again")
    progress.ended("prepare", [])


def _local_tracking(out: str) -> str:
    path = StudyFolder(out).local_path
    if path is None:
        raise UserError(
            f"output folder '{out}' is not on this machine, so it cannot hold MLflow's SQLite file; give --tracking"
        )
    return default_uri(path)


def _with_reachable_cache(study: Study) -> Study:
    """The study with its feature cache named as workers can open it."""
    url = study.cache.url
    if url is None:
        return study
    if isinstance(filesystem(url)[0], MemoryFileSystem):
        raise UserError(
            f"cache.url '{url}' is in this process's memory, which workers cannot reach; give a folder or URL"
        )
    return study.model_copy(update={"cache": study.cache.model_copy(update={"url": _absolute(url)})})


def _absolute(url: str) -> str:
    """Local paths as workers in other working directories understand them; URLs as they are."""
    fs, path = filesystem(url)
    return str(path) if isinstance(fs, LocalFileSystem) else url
