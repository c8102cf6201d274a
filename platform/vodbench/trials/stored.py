"""The complete trials of study folders, with where they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.storage import join
from vodbench.studies import Study
from vodbench.sweeps.folder import StudyFolder
from vodbench.trials.conditions import Conditions
from vodbench.trials.folders import folder_name


@dataclass(frozen=True, kw_only=True)
class StoredTrial:
    """A complete trial in a study folder."""

    record: TrialRecord
    accuracy: Accuracy
    runtime: Runtime
    study: Study
    folder: str

    @property
    def study_name(self) -> str:
        return folder_name(self.folder)

    @property
    def url(self) -> str:
        """The trial's folder, which ``--run`` takes."""
        return join(self.folder, "trials", self.record.fingerprint)

    @property
    def conditions(self) -> Conditions:
        return Conditions(
            data=self.record.data_fingerprint,
            split=self.study.data.val,
            snippets=self.accuracy.num_snippets,
            protocol=self.accuracy.protocol,
            device=self.runtime.device,
            threads=self.runtime.threads,
        )


def stored_trials(folders: Sequence[str]) -> list[StoredTrial]:
    """Every complete trial, folder by folder in running order. ``UserError`` for a damaged study or record."""
    found = []
    for url in folders:
        folder = StudyFolder(url)
        study = folder.study()
        for record in sorted(folder.records().values(), key=lambda r: (r.started, r.fingerprint)):
            if record.status == "complete" and record.accuracy is not None and record.runtime is not None:
                found.append(
                    StoredTrial(
                        record=record, accuracy=record.accuracy, runtime=record.runtime, study=study, folder=url
                    )
                )
    return found
