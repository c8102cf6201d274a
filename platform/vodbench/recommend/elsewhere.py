"""Advice on data that no trial was made on: the checkpoints of the most accurate trials are judged on it.

A runtime depends on the data little (frames are resized) and stays as it was recorded; which setting is the most
accurate can change, and the interval of its accuracy does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vodbench.checkpoints import checkpoint_url, load_checkpoint
from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, read_detections
from vodbench.errors import UserError
from vodbench.evaluation import truth_set
from vodbench.recommend.advice import Advice, NoCandidate, advise
from vodbench.recommend.limits import Limits, no_candidate
from vodbench.spec import ClassInfo, Dataset
from vodbench.storage import join
from vodbench.trials import Configuration, StoredTrial, configurations, grouped
from vodbench.trials.judging import EVERY_FRAME, Resampled, judge_all

OnDetecting = Callable[[str, int, int], None]  # which, frames done, frames in all


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """The user's own data, and where detections on it are kept: the next call does not detect again."""

    source: DataSource
    split: str
    store: str
    device: str = "auto"
    workers: int = 1


def recommend_elsewhere(
    trials: Sequence[StoredTrial],
    limits: Limits,
    elsewhere: Elsewhere,
    *,
    most: int = 6,
    on_detecting: OnDetecting | None = None,
) -> list[Advice | NoCandidate]:
    """Advice for each device (and protocol), from the checkpoints of trials made on other data; none, with the reason,
    where no checkpoint knows a class of the data.

    Args:
        most: how many configurations are judged of those made on each data, the ones with the highest recorded mAP.

    Raises:
        UserError: the split is not there.
    """
    dataset = elsewhere.source.open()
    dataset.snippets(elsewhere.split)
    return [
        _advice(of_device, limits, _Judge(elsewhere, dataset, of_device[0].accuracy.protocol, on_detecting), most)
        for of_device in _by_device(trials)
    ]


def _advice(trials: Sequence[StoredTrial], limits: Limits, judge: _Judge, most: int) -> Advice | NoCandidate:
    conditions = trials[0].conditions
    kinds = [configurations(of_kind) for of_kind in grouped(trials).values()]
    found = [c for kind in kinds for c in kind]
    if not any(map(limits.admits, found)):
        return NoCandidate(conditions, no_candidate(found, limits))
    chosen: list[Configuration] = []
    for kind in kinds:  # trials on one data set know the same classes
        inside = sorted(filter(limits.admits, kind), key=lambda c: -c.map)[:most]
        if judge.takes(inside):
            chosen += inside
    if not chosen:
        return NoCandidate(conditions, "; ".join(judge.notes))
    advised = advise(conditions, chosen, limits, judge, most=len(chosen), judged_on=judge.data)
    if advised.unsure is not None:  # recorded accuracies are of other data: they are no advice on this
        return NoCandidate(conditions, advised.unsure)
    left_out = sum(map(limits.admits, found)) - len(chosen)
    return dataclasses.replace(advised, not_judged=left_out, notes=tuple(judge.notes))


def _by_device(trials: Sequence[StoredTrial]) -> list[list[StoredTrial]]:
    found: dict[tuple[str, int, str], list[StoredTrial]] = {}
    for trial in trials:
        key = trial.runtime.device, trial.runtime.threads, trial.accuracy.protocol
        found.setdefault(key, []).append(trial)
    return list(found.values())


class _Judge:
    """Detects with every checkpoint and judges all on the user's data."""

    def __init__(self, elsewhere: Elsewhere, dataset: Dataset, protocol: str, on_detecting: OnDetecting | None) -> None:
        self._elsewhere, self._dataset, self._protocol = elsewhere, dataset, protocol
        self._report = on_detecting or (lambda which, done, total: None)
        self._known: dict[str, Sequence[ClassInfo]] = {}  # trial -> classes of its checkpoint
        self.notes: dict[str, None] = {}
        self.data = f"{elsewhere.source.root} ({dataset.fingerprint}), split {elsewhere.split}"

    def takes(self, chosen: Sequence[Configuration]) -> bool:
        """Whether their checkpoints are there and know a class of the data; a note says why not, or what they lack."""
        try:
            for trial in (trial for configuration in chosen for trial in configuration.trials):
                self._known[trial.url] = self._checked_classes(trial)
        except UserError as error:
            self.notes[str(error)] = None
            return False
        return bool(chosen)

    def __call__(self, chosen: Sequence[Configuration]) -> Resampled:
        for trial in (trial for configuration in chosen for trial in configuration.trials):
            self._detect(trial)
        truth = truth_set(self._dataset, self._elsewhere.split)

        def detections(trial: StoredTrial) -> DetectionSet:
            return relabelled(read_detections(self._kept(trial)), self._known[trial.url], self._dataset.classes)

        return judge_all(chosen, truth, self._protocol, detections, only_every_frame=True)[EVERY_FRAME]

    def _checked_classes(self, trial: StoredTrial) -> Sequence[ClassInfo]:
        known = load_checkpoint(_weights(trial), trial.record.method).classes
        unknown = [info.name for info in self._dataset.classes if _label(info, known) is None]
        if len(unknown) == len(self._dataset.classes):
            raise UserError(
                f"the trials of '{trial.folder}' know the classes {_some([c.name for c in known])}, and the data has "
                f"{_some(unknown)}: none of them can find these; train on this data with 'vodbench sweep'"
            )
        if unknown:
            self.notes[f"{trial.study_name} knows no {_some(unknown)}: these classes count with AP 0"] = None
        return known

    def _detect(self, trial: StoredTrial) -> None:
        from vodbench.streaming import detect_split

        checkpoint = load_checkpoint(_weights(trial), trial.record.method)
        detect_split(
            _weights(trial),
            type(checkpoint.config).from_mapping(trial.record.config),
            self._elsewhere.source,
            self._elsewhere.split,
            self._kept(trial),
            workers=self._elsewhere.workers,
            device=self._elsewhere.device,
            on_progress=lambda done, total: self._report(f"{trial.record.method}, {trial.study_name}", done, total),
        )

    def _kept(self, trial: StoredTrial) -> str:
        place = f"{self._dataset.fingerprint}-{self._elsewhere.split}"
        return join(self._elsewhere.store, place, f"{trial.record.fingerprint}.parquet")


def relabelled(found: DetectionSet, known: Sequence[ClassInfo], wanted: Sequence[ClassInfo]) -> DetectionSet:
    """Detections with labels of ``known`` classes as labels of the ``wanted`` ones; those of no wanted class go."""
    to = np.zeros(len(known) + 1, np.int32)
    for label, info in enumerate(wanted, start=1):
        own = _label(info, known)
        if own is not None:
            to[own] = label
    labels = to[found.labels]
    kept = labels > 0
    frame_of = np.repeat(np.arange(len(found)), np.diff(found.offsets))[kept]
    counts = np.bincount(frame_of, minlength=len(found))
    return dataclasses.replace(
        found,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=found.boxes[kept],
        scores=found.scores[kept],
        labels=labels[kept],
    )


def _label(info: ClassInfo, known: Sequence[ClassInfo]) -> int | None:
    """The label that ``known`` classes have for this one: that of its identifier, or else of its name."""
    ids = {k.id: n for n, k in enumerate(known, start=1)}
    return ids.get(info.id, _names(known).get(info.name.lower()))


def _names(classes: Sequence[ClassInfo]) -> Mapping[str, int]:
    return {info.name.lower(): n for n, info in enumerate(classes, start=1)}


def _weights(trial: StoredTrial) -> str:
    return checkpoint_url(trial.folder, trial.record.checkpoint or "")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
