"""Recorded trials of several study folders: finding them, and saying which of them can be compared."""

from vodbench.trials.conditions import Conditions, grouped
from vodbench.trials.configurations import Configuration, configurations
from vodbench.trials.folders import study_folders
from vodbench.trials.labels import labels
from vodbench.trials.stored import StoredTrial, stored_trials

__all__ = [
    "Conditions",
    "Configuration",
    "StoredTrial",
    "configurations",
    "grouped",
    "labels",
    "stored_trials",
    "study_folders",
]
