"""Sweeps as RayJobs: made whole or not at all, followed, stopped, and made again to continue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vodbench.errors import UserError
from vodbench.launch.api import CONFLICT, Kubernetes, Manifest, RefusedError
from vodbench.launch.manifests import check_pod, documents, job_name
from vodbench.launch.preflight import check_cluster
from vodbench.launch.settings import Cluster
from vodbench.launch.sizes import Sizes
from vodbench.launch.state import Launched, Phase, Say
from vodbench.studies import Study

POLL_S = 2.0
GONE_S = 120.0  # the operator takes a cluster down before its RayJob goes
SWEEPS = "vodbench/role=sweep"
NEVER_STARTS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")
_ENDED = {"Complete": Phase.SUCCEEDED, "Failed": Phase.FAILED, "ValidationFailed": Phase.FAILED}


def submit(api: Kubernetes, study: Study, cluster: Cluster, sizes: Sizes, say: Say, *, check_image: bool) -> Launched:
    """Make the sweep's objects, or say in one line why not; then nothing of them is left.

    A sweep of the study that has ended is replaced, and continued from its folder. ``UserError`` when one runs.
    """
    check_cluster(api, cluster)
    name = job_name(study.name)
    _make_room(api, name)
    manifests = documents(study, cluster, sizes)
    for manifest in manifests:
        api.create(manifest, dry_run=True)
    *parts, job = manifests
    with _all_or_nothing(api) as create:
        for manifest in parts:
            create(manifest)
        if check_image:
            _check_image(api, study, cluster, create, say)
        made = create(job)
        for manifest in parts:
            api.adopt(manifest["kind"], name, made)
    return Launched(name, Phase.STARTING)


def status(api: Kubernetes, name: str) -> Launched | None:
    """None when there is no such sweep."""
    found = api.job(name)
    return None if found is None else _state(found)


def sweeps(api: Kubernetes) -> list[Launched]:
    return [_state(found) for found in api.jobs(SWEEPS)]


def stop(api: Kubernetes, name: str) -> None:
    """Take the sweep's cluster down. What it has finished stays in its folder."""
    if api.job(name) is None:
        raise UserError(f"no sweep '{name}' is launched in namespace '{api.namespace}'; see 'vodbench launch status'")
    _remove(api, name)


def follow(api: Kubernetes, name: str, say: Say, write: Say) -> Launched:
    """Write the sweep's own log as it grows, until it ends. ``say`` hears of changes of state."""
    log, before = Log(api, name), ""
    while True:
        state = status(api, name)
        if state is None:
            return Launched(name, Phase.STOPPED)
        log.pass_on(write)
        if state.line() != before:
            say(state.line())
            before = state.line()
        if state.phase.ended:
            log.pass_on(write)
            return state
        time.sleep(POLL_S)


class Log:
    """The log of a sweep's driver, as the pod that submitted it follows it; each line is passed on once."""

    def __init__(self, api: Kubernetes, name: str) -> None:
        self._api, self._selector = api, f"job-name={name}"
        self._pod, self._passed = "", 0

    def pass_on(self, write: Say) -> None:
        pods = [pod for pod in self._api.pods(self._selector) if pod.status.phase not in ("Pending", "Unknown")]
        if not pods:
            return
        newest = pods[-1].metadata.name
        if newest != self._pod:
            self._pod, self._passed = newest, 0
        try:
            text = self._api.log(newest)
        except RefusedError:
            return  # it has just ended or not quite begun; the next look finds it or the one after it
        end = text.rfind("\n") + 1
        if end < self._passed:  # the node began a new file: what is older is no longer shown
            self._passed = 0
        if end > self._passed:
            write(text[self._passed : end])
            self._passed = end


def _state(found: Manifest) -> Launched:
    told = found.get("status") or {}
    deployment, job = told.get("jobDeploymentStatus", ""), told.get("jobStatus", "")
    phase = _ENDED.get(deployment, Phase.RUNNING if job == "RUNNING" else Phase.STARTING)
    if job == "STOPPED":
        phase = Phase.STOPPED
    if deployment == "Complete" and job == "FAILED":
        phase = Phase.FAILED
    said = [told.get("reason", ""), " ".join(str(told.get("message", "")).split())[:200]]
    detail = ": ".join(filter(None, said)) or (deployment if phase is Phase.STARTING else "")
    return Launched(found["metadata"]["name"], phase, detail)


def _make_room(api: Kubernetes, name: str) -> None:
    there = api.job(name)
    if there is not None:
        state = _state(there)
        if not state.phase.ended:
            raise UserError(
                f"the study was launched already and is {state.phase.value} as RayJob '{name}'; follow it with "
                "'vodbench launch logs', or stop it with 'vodbench launch stop'"
            )
    _remove(api, name)


def _remove(api: Kubernetes, name: str) -> None:
    """All objects of a sweep, whichever are there."""
    api.delete("RayJob", name)
    for kind in ("PodDisruptionBudget", "ConfigMap"):
        api.delete(kind, name)
    api.delete("Pod", f"{name}-check")
    deadline = time.monotonic() + GONE_S
    while api.job(name) is not None:
        if time.monotonic() > deadline:
            raise UserError(f"RayJob '{name}' is still being deleted after {GONE_S:.0f} s; try again in a while")
        time.sleep(POLL_S)


@contextmanager
def _all_or_nothing(api: Kubernetes) -> Iterator[Callable[[Manifest], Manifest]]:
    """Objects that are made inside are deleted when anything goes wrong, Ctrl-C included."""
    made: list[tuple[str, str]] = []

    def create(manifest: Manifest) -> Manifest:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            result = api.create(manifest)
        except RefusedError as refused:
            if refused.status == CONFLICT:  # not ours to delete: somebody launches the same study at this moment
                raise UserError(f"the study was launched already, this moment: {refused}") from None
            raise
        made.append((kind, name))
        return result

    try:
        yield create
    except BaseException:
        for kind, name in reversed(made):
            api.delete(kind, name)
        raise


def _check_image(
    api: Kubernetes, study: Study, cluster: Cluster, create: Callable[[Manifest], Manifest], say: Say
) -> None:
    """Run the image's own check in a pod: before machines with GPUs are asked for."""
    manifest = check_pod(study, cluster)
    name = manifest["metadata"]["name"]
    say(f"checking that '{cluster.image}' can run the study, with this bucket and tracking server")
    create(manifest)
    phase, problem = _outcome(api, name, deadline=time.monotonic() + cluster.start_minutes * 60)
    if phase != "Succeeded":
        raise UserError(f"image '{cluster.image}' cannot run the study: {problem}")
    api.delete("Pod", name)


def _outcome(api: Kubernetes, name: str, deadline: float) -> tuple[str, str]:
    while time.monotonic() < deadline:
        pod = api.pod(name)
        if pod is None:
            return "Gone", "the pod that checks it was deleted; try again"
        if pod.status.phase == "Succeeded":
            return "Succeeded", ""
        if pod.status.phase == "Failed":
            return "Failed", _last_error(api.log(name))
        for container in pod.status.container_statuses or ():
            waiting = container.state.waiting if container.state else None
            if waiting is not None and waiting.reason in NEVER_STARTS:
                return "Waiting", f"{waiting.reason}: {' '.join((waiting.message or '').split())[:200]}"
        time.sleep(POLL_S)
    return "Pending", "its check did not start in time; see 'kubectl describe pod'"


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1]
