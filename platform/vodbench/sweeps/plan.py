"""From points to trials: fingerprints, and the order in which a grid is run."""

from __future__ import annotations

from collections.abc import Iterable

from vodbench.fingerprint import fingerprint
from vodbench.registry import method_spec
from vodbench.studies import Point, grid_points
from vodbench.sweeps.steps import Steps, TrialContext, TrialJob


def trial_job(point: Point, seed: int, context: TrialContext) -> TrialJob:
    """The trial of a point and a seed. Its fingerprint covers method, configuration, seed, data and protocol."""
    study = context.study
    name = fingerprint(
        "trial",
        point.method,
        point.config.to_mapping(),
        seed,
        context.data_fingerprint,
        [study.data.train, study.data.val],
        study.accuracy.model_dump(mode="json"),
    )
    return TrialJob(name, point.method, method_spec(point.method).paper, point.config, dict(point.knobs), seed)


def grid_jobs(context: TrialContext, steps: Steps) -> list[TrialJob]:
    """Every trial of the study's grid in running order, as many as ``search.trials`` allows."""
    study = context.study
    points = grid_points(study)
    jobs = [trial_job(point, seed, context) for seed in study.seeds for point in points][: study.search.trials]
    return ordered(jobs, context, steps)


def ordered(jobs: Iterable[TrialJob], context: TrialContext, steps: Steps) -> list[TrialJob]:
    """Trials that share weights one after another, in order of first appearance.

    With several trials at a time, one trial of each training goes first: otherwise all but one would wait for the
    same training.
    """
    groups: dict[str, list[TrialJob]] = {}
    for job in jobs:
        groups.setdefault(steps.training_fingerprint(job, context), []).append(job)
    if context.study.workers.concurrent_trials == 1:
        return [job for group in groups.values() for job in group]
    leaders = [group[0] for group in groups.values()]
    return leaders + [job for group in groups.values() for job in group[1:]]
