"""What a training keeps on disk, below ``<store>/checkpoints/<stage fingerprint>/``.

model.pt        the result; once it is there, nothing else is needed
partial.pt      an unfinished stage: weights, optimiser, iteration; replaced every now and then, removed at the end
paused-N.pt     the weights of a stage that paused after N iterations, to be judged; removed at the end
training.json   the training curve and how long it took
progress.json   where the training is, for whoever started it (and for a person who looks); in the last stage's folder
failure.json    why it gave up, until whoever started it has read it; in the last stage's folder
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.checkpoints import checkpoint_url, pack, unpack
from vodbench.errors import UserError
from vodbench.redaction import redact
from vodbench.storage import bytes_if_there, exists, filesystem, join, read_text, remove_torn, write_bytes, write_text

FORMAT = "vodbench-partial"
SCHEMA = 1

PROGRESS_S = 1.0
# Writing may take this part of the time: large models on slow storage are then written less often than asked for.
WRITING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one stage."""

    store: str
    fingerprint: str

    def url(self, name: str) -> str:
        return join(self.store, "checkpoints", self.fingerprint, name)

    @property
    def finished(self) -> bool:
        return exists(checkpoint_url(self.store, self.fingerprint))

    def paused_url(self, iteration: int) -> str:
        """Where the weights of a stage are that paused there; ``load_checkpoint`` reads them."""
        return self.url(f"paused-{iteration}.pt")

    def reached(self, until: int | None) -> bool:
        """Whether the stage is as far as that; None: finished."""
        return self.finished or (until is not None and exists(self.paused_url(until)))

    def tidy(self) -> None:
        """Remove what killed workers were writing and, of a finished stage, its unfinished state."""
        if self.finished:
            self.remove("partial.pt")
            fs, path = filesystem(self.url(""))
            for paused in fs.glob(f"{path.rstrip('/')}/paused-*.pt"):
                fs.rm_file(paused)
        remove_torn(self.url(""))

    def remove(self, name: str) -> None:
        fs, path = filesystem(self.url(name))
        if fs.exists(path):
            fs.rm_file(path)


class Keeper:
    """Writes a stage's unfinished state so often that a crash costs little, and so rarely that writing costs little.

    ``every_s``: seconds between writes, at least (0: after every step).
    """

    def __init__(self, folder: Folder, every_s: float) -> None:
        self.folder, self.every_s = folder, every_s
        self._due = time.monotonic() + every_s

    def load(self) -> bytes | None:
        """The bytes of the last state, if there is one."""
        return bytes_if_there(self.folder.url("partial.pt"))

    def decode(self, data: bytes) -> dict[str, Any]:
        url = self.folder.url("partial.pt")
        try:
            return unpack(data, FORMAT, SCHEMA, url)
        except UserError as error:
            raise UserError(f"{error}; delete it to train this stage from its start") from error

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def save(self, state: Mapping[str, Any]) -> None:
        started = time.monotonic()
        write_bytes(self.folder.url("partial.pt"), pack(FORMAT, SCHEMA, state))
        ended = time.monotonic()
        self._due = ended + max(self.every_s, (ended - started) / WRITING_SHARE if self.every_s else 0.0)


class ProgressFile:
    """How a worker tells the process that started it how far it is, or why it gave up.

    Files, because they work on any storage, across machines and restarts, and cost a millisecond a second; Ray Train's
    own reports reach the driver only at the end. Failures are kept apart: any worker may write one, and no later
    progress may hide it.
    """

    def __init__(self, folder: Folder, attempt: str) -> None:
        self.folder, self.attempt = folder, attempt
        self._due = 0.0

    def write(self, values: Mapping[str, Any], *, now: bool = False) -> None:
        """Write at most every ``PROGRESS_S`` seconds, unless it must be ``now``."""
        if now or time.monotonic() >= self._due:
            self._write("progress.json", values)
            self._due = time.monotonic() + PROGRESS_S

    def read(self) -> dict[str, Any] | None:
        """The last progress of this attempt."""
        return self._read("progress.json")

    def fail(self, error: Exception) -> None:
        """Record an error that a retry would only repeat."""
        values = {"kind": type(error).__name__, "message": redact(str(error))}
        self._write("failure.json", {**values, "traceback": redact("".join(traceback.format_exception(error)))})

    def failure(self) -> dict[str, Any] | None:
        """What a worker of this attempt gave up with: ``kind``, ``message``, ``traceback``."""
        return self._read("failure.json")

    def remove(self) -> None:
        for name in ("progress.json", "failure.json"):
            self.folder.remove(name)

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        write_text(self.folder.url(name), json.dumps({"attempt": self.attempt, **values}))

    def _read(self, name: str) -> dict[str, Any] | None:
        url = self.folder.url(name)
        if not exists(url):
            return None
        values: dict[str, Any] = json.loads(read_text(url))
        return values if values.get("attempt") == self.attempt else None
