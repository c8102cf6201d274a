"""A study's folder: the truth about a sweep. Ray's and Optuna's own state can be thrown away at any time.

::

    OUT/study.yaml                          the resolved study
    OUT/sweep.json                          identity of this sweep: id, data fingerprint, when it began
    OUT/checkpoints/<fp>/model.pt           weights, shared by trials (vodbench.training)
    OUT/trials/<fp>/trial.json              what came out, written last and whole
    OUT/trials/<fp>/detections.parquet
    OUT/trials/<fp>/error.txt               traceback of a failed trial
    OUT/rungs/<training>/                   how good a training was on its way (early stopping)
    OUT/times/                              what the parts of the sweep took (vodbench.sweeps.times)
    OUT/hypervolume.json                    of the front after each trial, in the order in which they ended
"""

from __future__ import annotations

import fcntl
import json
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import yaml
from fsspec.implementations.local import LocalFileSystem

from vodbench.errors import UserError
from vodbench.records import TrialRecord
from vodbench.storage import (
    exists,
    filesystem,
    join,
    make_folder,
    reaching,
    read_text,
    text_if_there,
    texts_if_there,
    write_text,
)
from vodbench.studies import Study, load_study

# What all trials of one folder must agree in to be comparable; knobs, methods, seeds and trials may be added.
_COMMON = ("name", "preset", "settings", "accuracy", "runtime")


@dataclass(frozen=True)
class SweepIdentity:
    """``id`` names the sweep in MLflow, wherever the folder is moved to."""

    id: str
    data_fingerprint: str
    began: str


class StudyFolder:
    """Paths and records below one local path or URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def study_url(self) -> str:
        return join(self.url, "study.yaml")

    def trial_url(self, fingerprint: str, name: str = "trial.json") -> str:
        return join(self.url, "trials", fingerprint, name)

    @property
    def local_path(self) -> str | None:
        """The folder on this machine's disk; None on an object store."""
        fs, path = filesystem(self.url)
        return path if isinstance(fs, LocalFileSystem) else None

    def study(self) -> Study:
        """The study this folder belongs to; ``UserError`` when it is no study folder."""
        if not exists(self.study_url):
            raise UserError(f"'{self.url}' holds no study.yaml; give the output folder of a 'vodbench sweep'")
        return load_study(self.study_url)

    def identity(self) -> SweepIdentity:
        where = join(self.url, "sweep.json")
        try:
            return SweepIdentity(**json.loads(read_text(where)))
        except (ValueError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"'{where}' is damaged ({error}); sweep into another --out") from error

    def claim(self, study: Study, data_fingerprint: str) -> SweepIdentity:
        """Make this the folder of ``study``, or continue it. Nothing is written when it belongs to another one."""
        if exists(self.study_url):
            identity = self.identity()
            self._check_same(study, data_fingerprint, identity)
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            identity = SweepIdentity(uuid.uuid4().hex[:16], data_fingerprint, now)
        try:
            write_text(join(self.url, "sweep.json"), json.dumps(asdict(identity), indent=1))
            write_text(self.study_url, yaml.safe_dump(study.to_mapping(), sort_keys=False, width=110))
        except OSError as error:
            raise UserError(f"output folder '{self.url}' cannot be written ({error}); give another --out") from error
        return identity

    def check(self, study: Study) -> None:
        """``UserError`` when this is the folder of another study, whatever its data."""
        if exists(self.study_url):
            identity = self.identity()
            self._check_same(study, identity.data_fingerprint, identity)

    def records(self) -> dict[str, TrialRecord]:
        """Every trial on disk by fingerprint; ``UserError`` naming a damaged record."""
        where = join(self.url, "trials")
        fs, path = filesystem(where)
        with reaching(where):
            entries = sorted(fs.ls(path, detail=False)) if fs.exists(path) else []
        names = [join(posixpath.basename(entry.rstrip("/")), "trial.json") for entry in entries]
        pairs = zip(names, texts_if_there(where, names), strict=True)
        found = (TrialRecord.from_json(text, join(where, name)) for name, text in pairs if text is not None)
        return {record.fingerprint: record for record in found}

    def record(self, fingerprint: str) -> TrialRecord | None:
        where = self.trial_url(fingerprint)
        text = text_if_there(where)
        return None if text is None else TrialRecord.from_json(text, where)

    def write_record(self, record: TrialRecord) -> None:
        write_text(self.trial_url(record.fingerprint), record.to_json())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One sweep at a time in a local folder; the system frees the lock when its process dies."""
        path = self.local_path
        if path is None:
            yield
            return
        make_folder(self.url)
        # The folder itself is locked, not a file in it: nothing is written into a folder that is then refused.
        folder = os.open(path, os.O_RDONLY)
        try:
            _lock_now(folder, self.url)
            yield
        finally:
            os.close(folder)

    def _check_same(self, study: Study, data_fingerprint: str, identity: SweepIdentity) -> None:
        there, here = self.study().to_mapping(), study.to_mapping()
        pairs = {key: (there[key], here[key]) for key in _COMMON}
        pairs |= {f"data.{key}": (there["data"][key], here["data"][key]) for key in ("train", "val")}
        # Exact features or none at all: the same detections.
        old, new = ("fp16" if s["cache"]["dtype"] == "fp16" else "exact" for s in (there, here))
        pairs["cache.dtype"] = (old, new)
        pairs["data fingerprint"] = (identity.data_fingerprint, data_fingerprint)
        for key, (old, new) in pairs.items():
            if old != new:
                raise UserError(
                    f"output folder '{self.url}' belongs to another study: {_difference(key, old, new)}; "
                    "give another --out, or undo the change"
                )


def _lock_now(folder: int, url: str) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another sweep is running in '{url}'; wait for it, stop it, or give another --out") from None


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                return _difference(f"{key}.{name}", old.get(name), new.get(name))
    return f"{key} is {old!r} there and {new!r} here"
