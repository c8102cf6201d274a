"""Sweeps as jobs of a standing Ray cluster, through its Jobs API with token authentication."""

from __future__ import annotations

import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vodbench.errors import UserError
from vodbench.launch.state import Launched, Phase, Say

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_S = 1.0
STOP_S = 60.0
READY_S = 120.0
NOT_READY = "No available agent"
_JOB = re.compile(r"vodbench-[-a-z0-9]+\.[0-9]+")
_PHASES = {
    "PENDING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.FAILED,
    "STOPPED": Phase.STOPPED,
}


class RayJobs:
    """The jobs of the cluster at ``address`` (http://HOST:8265).

    The token is taken from RAY_AUTH_TOKEN, or from the file that RAY_AUTH_TOKEN_PATH names. ``UserError`` when nothing
    answers there, or when it does not know the token.
    """

    def __init__(self, address: str) -> None:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise UserError(f"Ray address '{address}' is not accepted: give http://HOST:8265, the dashboard's address")
        self.address = address
        from ray.job_submission import JobSubmissionClient

        for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        with self._asking():
            self._client: JobSubmissionClient = JobSubmissionClient(address, headers=_token_headers())
            self._client.list_jobs()  # the version, which is asked first, needs no token

    def submit(self, name: str, command: list[str], files: Mapping[str, str]) -> Launched:
        """Run ``command`` in a folder with these files, as job NAME.1, NAME.2 and so on; ``UserError`` while one runs.

        An ended job's own id could be taken again, but for some seconds Ray gives such a job to the supervisor of the
        one before, which is about to end.
        """
        there = self.status(name)
        if there is not None and not there.phase.ended:
            raise UserError(
                f"the study was launched already and is {there.phase.value} as job '{there.name}'; follow it with "
                "'vodbench launch logs', or stop it with 'vodbench launch stop'"
            )
        job = f"{name}.{1 + (_number(there.name) if there else 0)}"
        with tempfile.TemporaryDirectory() as folder:
            for file, text in files.items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
            with self._asking():
                self._submit(job, shlex.join(command), folder)
        return Launched(job, Phase.STARTING)

    def _submit(self, job: str, entrypoint: str, folder: str) -> None:
        """A head that has just started answers some seconds before it can take jobs."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self._client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env={"working_dir": folder})
                return
            except RuntimeError as error:
                if NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)

    def status(self, name: str) -> Launched | None:
        """Of the newest job of that name; None when there is none."""
        jobs = [job for job in self.sweeps() if job.name.rpartition(".")[0] == name]
        return max(jobs, key=lambda job: _number(job.name), default=None)

    def sweeps(self) -> list[Launched]:
        with self._asking():
            jobs = [job for job in self._client.list_jobs() if _JOB.fullmatch(job.submission_id or "")]
        return sorted(
            (_launched(job) for job in jobs), key=lambda job: (job.name.rpartition(".")[0], _number(job.name))
        )

    def stop(self, name: str) -> None:
        """End the job and wait until it has. What it has finished stays in its folder."""
        there = self.status(name)
        if there is None:
            raise UserError(f"no sweep '{name}' is launched at '{self.address}'; see 'vodbench launch status'")
        if there.phase.ended:
            return
        with self._asking():
            self._client.stop_job(there.name)
        deadline = time.monotonic() + STOP_S
        while not self._known(name).phase.ended:
            if time.monotonic() > deadline:
                raise UserError(f"job '{there.name}' still runs {STOP_S:.0f} s after it was asked to stop; try again")
            time.sleep(POLL_S)

    def follow(self, name: str, say: Say, write: Say) -> Launched:
        """Write the newest job's log as it grows, until it ends."""
        passed, before = 0, ""
        while True:
            state = self._known(name)  # before the log: what a job wrote last is there when it has ended
            with self._asking():
                text = self._client.get_job_logs(state.name)
            write(text[passed:])
            passed = len(text)
            if state.line() != before:
                say(state.line())
                before = state.line()
            if state.phase.ended:
                return state
            time.sleep(POLL_S)

    def _known(self, name: str) -> Launched:
        found = self.status(name)
        if found is None:
            raise UserError(f"the job of sweep '{name}' was deleted at '{self.address}'; launch it again")
        return found

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ray's client raises RuntimeError for whatever is refused."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise UserError(
                f"the Ray cluster at '{self.address}' does not accept the token; set RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH to a file with it (Secret vodbench-ray-token, key auth_token)"
            ) from None
        except OSError as error:  # those of requests are such, too
            raise UserError(
                f"no Ray cluster answers at '{self.address}' ({_one_line(error)}); forward its dashboard's port, or "
                "correct --ray-address"
            ) from None
        except RuntimeError as error:
            raise UserError(f"the Ray cluster at '{self.address}' refuses: {_one_line(error)}") from None


def _token_headers() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(f"RAY_AUTH_TOKEN_PATH '{file}' cannot be read ({error.strerror}); correct it") from None
    return {"Authorization": f"Bearer {token}"} if token else {}


def _number(job: str) -> int:
    return int(job.rpartition(".")[2])


def _launched(job: Any) -> Launched:
    phase = _PHASES[str(getattr(job.status, "value", job.status))]
    said = " ".join((job.message or "").split())[:200] if phase.ended else ""
    return Launched(job.submission_id, phase, said)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
