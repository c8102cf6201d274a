"""Configurations judged together: on the same resampled snippets, so that differences and maxima are paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, read_detections
from vodbench.errors import OneLineError, UserError
from vodbench.evaluation import TruthSet, truth_set
from vodbench.evaluation.bootstrap import interval
from vodbench.evaluation.matching import match
from vodbench.evaluation.overlap import Doubles
from vodbench.evaluation.protocols import protocol as protocol_named
from vodbench.evaluation.scoring import Difference
from vodbench.gains.judge import kinds_of_frames, resampled_map
from vodbench.spec import Dataset
from vodbench.storage import join
from vodbench.trials.conditions import Conditions
from vodbench.trials.configurations import Configuration
from vodbench.trials.stored import StoredTrial

RESAMPLES = 1000
EVERY_FRAME = "every_frame"


@dataclass(frozen=True)
class Resampled:
    """mAP of n configurations, each the mean over its seeds, and the same of B resamples of the snippets."""

    map: Doubles  # (n,)
    samples: Doubles  # (n, B); a column is one resample, the same for all

    def difference(self, a: int, b: int) -> Difference:
        """mAP of a less that of b with its 95% paired interval."""
        low, high = interval(self.samples[a] - self.samples[b])
        return Difference(mean=float(self.map[a] - self.map[b]), low=low, high=high)

    def interval(self, n: int) -> tuple[float, float]:
        return interval(self.samples[n])


def judged(
    configurations: Sequence[Configuration],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    only_every_frame: bool = False,
) -> dict[str, Resampled]:
    """Configurations under the same conditions by kind of frames: "every_frame", and what the data tell of others
    ("deteriorated", "slow", "medium", "fast").

    Reads the stored detections of every trial and the annotations they were made on.

    Raises:
        UserError: the data is not there or has changed; a trial has no stored detections.
    """
    trials = [trial for c in configurations for trial in c.copies]
    conditions = trials[0].conditions
    truth = ground_truth(trials, stored_detections(configurations[0].trials[0]).snippet_ids)
    return judge_all(
        configurations, truth, conditions.protocol, stored_detections, on_progress, only_every_frame=only_every_frame
    )


def judge_all(
    configurations: Sequence[Configuration],
    truth: TruthSet,
    protocol: str,
    detections: Callable[[StoredTrial], DetectionSet],
    on_progress: Callable[[int, int], None] | None = None,
    *,
    only_every_frame: bool = False,
) -> dict[str, Resampled]:
    """``judged`` on this ground truth; ``detections`` gives what a trial found on it."""
    settings, kinds = protocol_named(protocol), kinds_of_frames(truth)
    if only_every_frame:
        kinds = {EVERY_FRAME: kinds[EVERY_FRAME]}
    total = sum(len(c.trials) for c in configurations)
    done = 0
    rows: dict[str, list[tuple[float, Doubles]]] = {name: [] for name in kinds}
    for configuration in configurations:
        of_seeds: dict[str, list[tuple[float, Doubles]]] = {name: [] for name in kinds}
        for trial in configuration.trials:
            matching = match(truth, detections(trial), settings)
            for name, frames in kinds.items():
                of_seeds[name].append(resampled_map(matching, frames, RESAMPLES))
            done += 1
            if on_progress:
                on_progress(done, total)
        for name, seeds in of_seeds.items():
            rows[name].append((float(np.mean([m for m, _ in seeds])), np.mean([s for _, s in seeds], axis=0)))
    return {name: _stacked(of_kind) for name, of_kind in rows.items()}


def stored_detections(trial: StoredTrial) -> DetectionSet:
    """What the trial found on its own data; ``UserError`` when it was not kept."""
    if trial.record.detections is None:
        raise UserError(f"trial {trial.record.fingerprint} of '{trial.folder}' has no stored detections")
    return read_detections(join(trial.folder, trial.record.detections))


def ground_truth(trials: Sequence[StoredTrial], snippets: Sequence[str]) -> TruthSet:
    """The annotations of trials under the same conditions: from the first of their studies' data roots that is there.

    ``UserError`` saying why when none is.
    """
    conditions, problem = trials[0].conditions, None
    for source in _sources(trials):
        try:
            return truth_set(_same_data(source, conditions), conditions.split, snippets)
        except OneLineError as error:
            problem = problem or error
    raise problem or UserError("the studies name no data root")


def _sources(trials: Sequence[StoredTrial]) -> list[DataSource]:
    found: list[DataSource] = []
    for data in (trial.study.data for trial in trials):
        if data.root is not None:
            source = DataSource(root=data.root, kind=data.dataset, options=data.options)
            if source not in found:
                found.append(source)
    return found


def _same_data(source: DataSource, conditions: Conditions) -> Dataset:
    dataset = source.open()
    if conditions.data and dataset.fingerprint != conditions.data:
        raise UserError(
            f"data root '{source.root}' now holds data {dataset.fingerprint}, the trials were made on "
            f"{conditions.data}; give them their data back, or sweep again"
        )
    return dataset


def _stacked(rows: Sequence[tuple[float, Doubles]]) -> Resampled:
    return Resampled(map=np.array([m for m, _ in rows]), samples=np.stack([s for _, s in rows]))
