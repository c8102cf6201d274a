"""A plan held against a sweep that was run: what was expected of each part, and what it took."""

from __future__ import annotations

from dataclasses import dataclass

from vodbench.errors import UserError
from vodbench.plan.bounds import encodings
from vodbench.plan.costs import Rates
from vodbench.plan.data import Video
from vodbench.plan.forecast import Risks, forecast
from vodbench.plan.from_run import SweepSeen, seen
from vodbench.plan.priced import priced
from vodbench.plan.stages import work_of
from vodbench.studies import Study
from vodbench.sweeps.times import DETECT, SWEEP, TRAIN, noted_times


@dataclass(frozen=True, kw_only=True)
class Part:
    """Seconds of one part of a sweep. ``share``: how far the expectation was off."""

    name: str
    expected_s: float
    taken_s: float

    @property
    def share(self) -> float:
        return self.expected_s / self.taken_s - 1 if self.taken_s else float("inf")


def held_against(study: Study, rates: Rates, video: Video, run: str) -> list[Part]:
    """Trainings, accuracy passes, scoring, measuring and the whole of it; the last one is the whole.

    ``UserError`` where the folder holds another study, or a sweep that is not finished or ran in several goes.
    """
    sweep = seen(run)
    _check(study, sweep)
    work = priced(work_of(study), rates, video)
    passes, starts = _noted(sweep, DETECT), _noted(sweep, TRAIN)
    trials = work.trials
    detecting = (sum(encodings(work).values()) + sum(trial.own_s for trial in trials)) / work.detect_slots
    return [
        Part(
            name="trainings",
            expected_s=sum(t.seconds for t in work.trainings.values()) + len(starts) * work.train_start_s,
            taken_s=sum(starts),
        ),
        Part(
            name="accuracy passes",
            expected_s=detecting + len(passes) * work.pass_start_s + work.first_pass_s,
            taken_s=sum(passes),
        ),
        Part(
            name="scoring",
            expected_s=sum(trial.score_s for trial in trials),
            taken_s=sum(record.seconds["evaluate"] for record in sweep.records),
        ),
        Part(
            name="measuring runtime",
            expected_s=sum(trial.measure_s for trial in trials),
            taken_s=sum(record.seconds["runtime"] for record in sweep.records),
        ),
        Part(
            name="the whole sweep",
            expected_s=forecast(study, rates, video, Risks()).wall_s,
            taken_s=sum(_noted(sweep, SWEEP)),
        ),
    ]


def _noted(sweep: SweepSeen, what: str) -> list[float]:
    return [float(noted["seconds"]) for noted in noted_times(sweep.url, what)]


def _check(study: Study, sweep: SweepSeen) -> None:
    wanted = {trial.job.fingerprint for trial in work_of(study, sweep.records[0].data_fingerprint).trials}
    there = {record.fingerprint for record in sweep.records}
    if missing := len(wanted - there):
        raise UserError(
            f"sweep '{sweep.url}' (study {sweep.study.name}) lacks {missing} of the {len(wanted)} trials of study "
            f"'{study.name}' with these settings; give that study's folder, finished, with the same --scale and --set"
        )
    if len(list(noted_times(sweep.url, SWEEP))) != 1:
        raise UserError(
            f"sweep '{sweep.url}' was not run in one go, so its wall time is not known; run it into a new --out"
        )
