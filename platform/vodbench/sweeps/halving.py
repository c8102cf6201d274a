"""Giving up hopeless trainings: successive halving on accuracy. Runtime has no part in it.

A grid's trainings climb together, rung by rung: at each rung all of them are trained, then judged, then compared. The
trainings of a search come one after another, and each is compared with those that came before it. Either way the
figures are on disk (``rungs``), so that a continued study decides as an undisturbed one. (With several trials at a
time, who came before is a matter of time, and so are decisions.)

Judged is the training, not one of the trials that share it: with the inference settings that the study begins with.
"""

from __future__ import annotations

from collections.abc import Sequence

from vodbench.sweeps.rungs import Rung, Rungs, spared
from vodbench.sweeps.steps import OnProgress, Steps, TrialContext, TrialJob


class HopelessError(Exception):
    """A training was given up; the message says where and why."""


def climb(jobs: Sequence[TrialJob], context: TrialContext, steps: Steps, on_progress: OnProgress) -> dict[str, str]:
    """Take the trainings of these trials through their rungs; those that were given up, with the reason.

    Nothing is trained or judged twice. A training that is finished, or that another one begins with, is left alone.
    """
    settings = context.study.search.early_stopping
    if settings is None:
        return {}
    rungs = Rungs(context.folder, settings)
    climbing: dict[str, TrialJob] = {}
    for job in jobs:
        climbing.setdefault(steps.training_fingerprint(job, context), job)
    climbing = {t: job for t, job in climbing.items() if not spared(context.folder, t) and steps.may_stop(job, context)}
    stopped: dict[str, str] = {}
    for share in settings.rungs:
        new = {training: job for training, job in climbing.items() if rungs.at(training, share) is None}
        if new:
            steps.train_to(list(new.values()), share, context, on_progress)
        for training, job in new.items():
            score = steps.score(job, share, context, on_progress)
            if rungs.at(training, share) is None:  # a trial beside this one, of the same training, may have been faster
                rungs.keep(Rung(training=training, method=job.method, seed=job.seed, share=share, map=score))
        for training in list(climbing):
            rung = rungs.at(training, share)
            assert rung is not None
            rung = rungs.decided(rung)
            if not rung.go_on:
                stopped[training] = _reason(rung, settings.snippets)
                del climbing[training]
    return stopped


def give_up_if_hopeless(job: TrialJob, context: TrialContext, steps: Steps, on_progress: OnProgress) -> None:
    """Take one trial's training through its rungs; ``HopelessError`` where it is given up."""
    for reason in climb([job], context, steps, on_progress).values():
        raise HopelessError(reason)


def _reason(rung: Rung, snippets: int) -> str:
    return (
        f"hopeless after {rung.share:.0%} of its training: mAP {rung.map:.3f} on {snippets} snippets, "
        f"and {rung.better} of {rung.of} trainings of {rung.method} were better"
    )
