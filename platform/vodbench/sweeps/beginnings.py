"""What the trainings of a study begin from, looked at before anything runs."""

from __future__ import annotations

from vodbench.studies import Study, method_spaces
from vodbench.training.driver import check_begin, missing_stages
from vodbench.training.fingerprints import PlannedStage, plan_stages


def missing_beginnings(study: Study, folder: str, data_fingerprint: str) -> tuple[PlannedStage, ...]:
    """The stages that start from fresh weights and are not in ``folder`` yet, of one point of each of the entries.

    One point tells: what a training starts from is among an entry's settings, hardly ever swept.
    """
    points = [space.first() for space in method_spaces(study)]
    chains = [
        plan_stages(point.method, point.config, data_fingerprint, study.seeds[0], study.data.train) for point in points
    ]
    return tuple(stage for stage in missing_stages(folder, chains) if stage.parent is None)


def check_beginnings(study: Study, folder: str, data_fingerprint: str) -> None:
    """``UserError`` for weights to start from that are missing or do not fit: once, instead of trial by trial."""
    check_begin(missing_beginnings(study, folder, data_fingerprint), num_classes=1)
