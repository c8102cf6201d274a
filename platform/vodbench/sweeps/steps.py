"""The four steps of a trial, behind one small protocol: a sweep arranges them and knows nothing about their inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vodbench.data_source import DataSource
from vodbench.knobs import MethodConfig
from vodbench.records import Accuracy, Runtime
from vodbench.studies import Study

# (what is being done, how much of it is done, of how much)
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share; travels to the workers."""

    study: Study
    source: DataSource
    data_fingerprint: str
    folder: str  # the study folder's path or URL
    revision: str = ""


@dataclass(frozen=True)
class TrialJob:
    """One trial to run: a method with a complete configuration and a seed."""

    fingerprint: str
    method: str
    paper: str
    config: MethodConfig
    knobs: dict[str, object]
    seed: int


class Steps(Protocol):
    """Training, detection, accuracy and runtime of one trial. Implementations travel to the workers: keep no state."""

    def training_fingerprint(self, job: TrialJob, context: TrialContext) -> str:
        """The name of the weights the trial needs: equal for trials that share their training settings."""
        ...

    def prepare(self, jobs: Sequence[TrialJob], context: TrialContext, on_progress: OnProgress) -> None:
        """Do ahead what these trials share, where that is cheaper than trial by trial: training and detection."""
        ...

    def may_stop(self, job: TrialJob, context: TrialContext) -> bool:
        """Whether its training is unfinished and no other of the study begins with it: then it may be given up."""
        ...

    def train_to(self, jobs: Sequence[TrialJob], share: float, context: TrialContext, on_progress: OnProgress) -> None:
        """Train each as far as this share of the iterations of its last stage, and keep the weights it has there."""
        ...

    def score(self, job: TrialJob, share: float, context: TrialContext, on_progress: OnProgress) -> float:
        """mAP of those weights on a few validation snippets, with the inference settings that the study begins with."""
        ...

    def train(self, job: TrialJob, context: TrialContext, on_progress: OnProgress) -> str:
        """Train, or find what is trained already; the fingerprint of the weights."""
        ...

    def detect(self, job: TrialJob, context: TrialContext, checkpoint: str, on_progress: OnProgress) -> None:
        """Write the detections of the validation split to the trial's folder."""
        ...

    def evaluate(self, job: TrialJob, context: TrialContext) -> Accuracy:
        """Judge the stored detections."""
        ...

    def measure(self, job: TrialJob, context: TrialContext, checkpoint: str) -> Runtime:
        """The runtime on an otherwise idle device."""
        ...
