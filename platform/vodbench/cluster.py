"""Ray, started once a process: an embedded local one by default, or a cluster that is already there."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import psutil

from vodbench.errors import UserError

MIB = 2**20

# Set where the user has not. Nothing is sent anywhere, nothing is asked of the network, and the log stays readable.
ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # asks for a decision in a warning; this is the coming default
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # commands show progress of their own
    "RAY_DEDUP_LOGS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A report costs one poll of Train's controller: 0.1 s instead of 2 s. Each of the others saves actors a training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Between the passes of a sweep, workers wait with torch and weights loaded. Ray's own patience is a second as soon
    # as there are more processes than CPUs (a trial's is one): each pass then paid for new workers, 1.5 s and imports.
    "RAY_idle_worker_killing_time_threshold_ms": "120000",
    # Workers stay in the driver's folder, so that relative paths mean the same to both.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Threads that wait for each other in a busy loop take the cores from those they wait for, as soon as anything else
    # runs on the machine. Three trainings of two threads each, side by side on two cores: 111 s with the usual loop,
    # 84 s with a short one, 33 s without; a training alone takes an eighth longer without.
    "OMP_WAIT_POLICY": "PASSIVE",
}

# Worker processes compute on few threads: several run side by side, and one thread each is also reproducible.
WORKER_ENVIRONMENT: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENCV_NUM_THREADS": "1"}

# Ray gives its own processes 30 s to start, whatever else the machine does: on a busy one that is worth another try.
START_ATTEMPTS = 3
TOO_SLOW = "timed out during startup"


def start_ray(address: str | None = None, num_cpus: int | None = None, *, dashboard: bool = False) -> None:
    """Start an embedded Ray, or join the cluster at ``address``. Does nothing when Ray already runs in this process.

    Args:
        address: None for an embedded Ray of this process (never one that happens to run on the machine);
            ``host:port``, ``ray://host:port`` or ``auto`` for a cluster.
        num_cpus: CPUs the embedded Ray may hand out; None for all that this process may use.
        dashboard: start the dashboard process too (Ray's state API, which Tune's early stopping needs, asks it).

    Raises:
        UserError: the address does not answer, wants another token, or its nodes run other versions.
    """
    prepare_environment()
    import ray

    if ray.is_initialized():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if address is None:
            _in_lasting_thread(lambda: _start_embedded(num_cpus, dashboard))
        else:
            from vodbench.joining import join

            join(address, worker_runtime_env())
    _end_in_order()
    _quiet_loggers()


def stop_ray() -> None:
    """End this process's embedded Ray, or leave the cluster. Never ends a Ray that somebody else started."""
    ray = sys.modules.get("ray")  # not imported for this
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def prepare_environment() -> None:
    """Set ``ENVIRONMENT`` where the user has not; Ray reads it when it starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_workers(workers: int) -> None:
    """``UserError`` when an embedded Ray could never run so many: said before it is started."""
    cpus = len(os.sched_getaffinity(0))
    if workers > cpus:
        raise UserError(
            f"workers = {workers} is not accepted: each needs a CPU and there are {cpus}; give at most {cpus}"
        )


def worker_runtime_env(threads: int = 1) -> dict[str, Any]:
    """A Ray ``runtime_env`` for processes that compute with ``threads`` threads."""
    return {"env_vars": {name: str(threads) for name in WORKER_ENVIRONMENT}}


def object_store_bytes(available: int | None = None) -> int:
    """Memory for Ray's object store: a tenth of what is available, from 256 MiB to 1 GiB.

    Clips in flight need some hundred MiB; Ray's own default, 30% of the memory, is memory that training lacks.
    """
    free = psutil.virtual_memory().available if available is None else available
    return max(256 * MIB, min(1024 * MIB, free // 10))


def _start_embedded(num_cpus: int | None, dashboard: bool) -> None:
    import ray

    # Ray turns token authentication on for a local start. Given no token, it writes one into the home folder; a token
    # of this process alone needs no file. (Setting RAY_AUTH_MODE here would come too late: Ray has been imported.)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus or len(os.sched_getaffinity(0)),
                include_dashboard=dashboard,
                object_store_memory=object_store_bytes(),
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env=worker_runtime_env(),
            )
            return
        except Exception as error:  # Ray has no narrower class for it
            if TOO_SLOW not in str(error) or attempt == START_ATTEMPTS - 1:
                raise
            ray.shutdown()


def _in_lasting_thread(start: Callable[[], None]) -> None:
    """Call ``start`` in a thread that lives as long as this process.

    Linux kills Ray's processes when the *thread* that started them ends (PR_SET_PDEATHSIG), and Ray may be started by
    whichever thread first asks for clips.
    """
    if threading.current_thread() is threading.main_thread():
        start()
        return
    started: Future[None] = Future()

    def run() -> None:
        try:
            start()
            started.set_result(None)
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that asked
            started.set_exception(error)
        threading.Event().wait()

    threading.Thread(target=run, name="ray-owner", daemon=True).start()
    started.result()


def _end_in_order() -> None:
    """What asks this process to end (a scheduler, a pod that is moved) interrupts it as Ctrl-C does.

    Ray's handler prints the stack of its C++ parts, and aborts 3 s later in the middle of what ends a sweep.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _quiet_loggers() -> None:
    """Ray's libraries log every state change; warnings remain."""
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
