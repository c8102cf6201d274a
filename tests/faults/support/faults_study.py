"""A study of many very small trials, and the command that runs it, as a process of its own to be disturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from vodbench_datasets.generated import generate
from vodbench_datasets.generated.config import GeneratorConfig

PLUGIN = Path(__file__).resolve().parents[1] / "plugin"
WITNESS = "VODBENCH_WITNESS"
DATA = GeneratorConfig(snippets=6, val_snippets=4, frames=10, size=64, classes=2)
# Small in everything; a step waits a little, so that a training can be met. Detection has workers of its own.
STUDY = {
    "name": "faults",
    "title": "Many small trials, disturbed",
    "preset": "tiny",
    "settings": {
        "basic_iterations": 20,
        "warmup_iterations": 4,
        "batch_size": 2,
        "step_s": 0.1,
        "short_side": 64,
        "max_side": 64,
        "anchor_sizes": [20.0],
    },
    "accuracy": {"bootstrap": 20},
    "runtime": {"snippets": 1},
    "workers": {"evaluation": 2, "concurrent_trials": 2},
}
# One training and its many uses, few and many of them; and many trainings.
FEW = {"basic_learning_rate": [0.05], "T": [1, 2, 3], "K": [4, 8]}
MANY = {"basic_learning_rate": [0.05], "T": [1, 2, 3, 4], "K": [2, 4, 6, 8, 10, 12]}
TRAININGS = {"basic_learning_rate": [0.02, 0.03, 0.04, 0.05], "T": [1, 2]}
Knobs = Mapping[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study reads, writes and records, and what its processes find in their environment.

    ``folder`` is the study's, local or a URL; ``home`` a local one for its file, its log and its witness.
    """

    home: Path
    data: str
    folder: str
    tracking: str
    words: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def witness(self) -> Path:
        return self.home / "witness"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def answer(self) -> Path:
        return self.home / "answer"


class Command:
    """One and the same ``vodbench sweep``, started as often as it takes."""

    def __init__(self, place: Place, site: Path, knobs: Knobs) -> None:
        self.place = place
        place.home.mkdir(parents=True)
        place.witness.touch()
        study = {**STUDY, "data": {"root": place.data}, "methods": [{"method": "watched", "knobs": dict(knobs)}]}
        file = place.home / "faults.yaml"
        file.write_text(yaml.safe_dump(study))
        words = ["sweep", str(file), "--out", place.folder, "--tracking", place.tracking, "--quiet", "--json"]
        self._words = [sys.executable, "-c", "from vodbench.cli import main; main()", *words, *place.words]
        self._environment = os.environ | environment(site, place)
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        with self.place.answer.open("wb") as answer, self.place.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._words,
                env=self._environment,
                cwd=self.place.home,
                stdout=answer,
                stderr=log,
                start_new_session=True,
            )

    def ended_well(self) -> bool:
        """It says itself that nothing is left to do: every trial is complete and recorded."""
        if self.process is None or self.process.poll() != 0:
            return False
        # Ray, too, writes to standard output when a worker dies.
        *_, last = (line for line in self.place.answer.read_text().splitlines() if line.startswith("{"))
        figures = json.loads(last)
        return bool(figures["tracked"] and not figures["trials_failed"])

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def descendants(self) -> list[psutil.Process]:
        """Every process of this sweep's own Ray; none where it uses a cluster."""
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """The driver alone, as the kernel does when memory is short; its workers find out by themselves."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """With all it started: for the end of a test."""
        left = self.descendants()
        if self.running:
            self.kill()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def environment(site: Path, place: Place) -> dict[str, str]:
    """What all processes of a disturbed study find beside their own: the plug-in, and the file for its lines."""
    path = os.pathsep.join([str(site), str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, WITNESS: str(place.witness), **place.variables}


def install_plugin(site: Path) -> Path:
    """A folder from which ``vodbench_watched`` is an installed plug-in, with PLUGIN beside it on the path."""
    info = site / "vodbench_watched-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vodbench_watched\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vodbench.methods]\nvodbench_watched = vodbench_watched:METHODS\n")
    return site


def make_data(folder: Path) -> str:
    if folder.exists():
        shutil.rmtree(folder)
    generate(str(folder), DATA)
    return str(folder)
