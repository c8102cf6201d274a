"""A plan beside a sweep that really ran: the same trainings, passes and trials, and rates out of its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from vodbench.errors import UserError
from vodbench.plan.against import held_against
from vodbench.plan.costs import load_rates, save_rates
from vodbench.plan.data import video_of
from vodbench.plan.from_run import rates_from
from vodbench.plan.machines import Machines
from vodbench.plan.priced import priced
from vodbench.plan.scenario import Scenario
from vodbench.plan.simulate import simulate
from vodbench.plan.stages import work_of
from vodbench.studies import Study, load_study
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.times import DETECT, SWEEP, TRAIN, note_time, noted_times

pytestmark = pytest.mark.slow


@pytest.fixture
def swept(little_sweep: Any) -> tuple[str, Study]:
    """A real sweep's folder, and its study with the data that it generated."""
    return str(little_sweep.out), little_sweep.study


def test_a_plan_holds_the_trainings_passes_and_trials_that_ran(swept: tuple[str, Study]) -> None:
    out, study = swept
    work = work_of(study, StudyFolder(out).identity().data_fingerprint)
    assert set(os.listdir(Path(out, "checkpoints"))) == set(work.trainings)
    assert set(os.listdir(Path(out, "trials"))) == {trial.job.fingerprint for trial in work.trials}
    passes = [sorted(noted["trials"]) for noted in noted_times(out, DETECT)]
    together = [{t.job.fingerprint for t in work.trials if t.training == name} for name in work.trainings]
    assert sorted(passes) == sorted(sorted(group) for group in together if group)
    trained = [sorted(noted["stages"]) for noted in noted_times(out, TRAIN)]
    assert trained == [sorted(work.trainings)]
    got = simulate(priced(work, rates_from(out), video_of(study)), Machines(nodes=1, slots_a_node=2), Scenario())
    assert (got.trainings, got.passes) == (len(work.trainings), len(passes))


def test_its_own_times_explain_a_sweep(swept: tuple[str, Study], tmp_path: Path) -> None:
    """What is summed from its parts must be the whole again, whatever the machine did meanwhile."""
    out, study = swept
    rates = rates_from(out)
    save_rates(rates, str(tmp_path / "rates.yaml"))
    assert load_rates(str(tmp_path / "rates.yaml")) == rates
    parts = {part.name: part for part in held_against(study, rates, video_of(study), out)}
    assert parts["trainings"].expected_s == pytest.approx(parts["trainings"].taken_s, rel=0.01)
    whole = parts["the whole sweep"]
    (noted,) = noted_times(out, SWEEP)
    assert whole.taken_s == noted["seconds"]
    assert whole.expected_s < 2 * whole.taken_s
    assert whole.expected_s > noted["ready_s"] + parts["trainings"].expected_s


def test_other_studies_and_unfinished_sweeps_are_refused(swept: tuple[str, Study], tmp_path: Path) -> None:
    out, study = swept
    other = load_study("demo", {"data.root": study.data.root})
    with pytest.raises(UserError, match="lacks 15 of the 15 trials"):
        held_against(other, rates_from(out), video_of(other), out)
    copy = str(tmp_path / "copy")
    shutil.copytree(out, copy)
    note_time(copy, SWEEP, 1.0, trials=[], ready_s=0.1, ended_s=[0.5], at_once=1, pressure=None)
    with pytest.raises(UserError, match="not run in one go"):
        held_against(study, rates_from(out), video_of(study), copy)
    note_time(copy, SWEEP, 1.0, trials=[], ready_s=0.1, ended_s=[0.5], at_once=2, pressure=None)
    with pytest.raises(UserError, match="several trials at once"):
        rates_from(copy)
    shutil.rmtree(Path(copy, "times"))
    with pytest.raises(UserError, match="did not note what its passes take"):
        rates_from(copy)
    shutil.rmtree(Path(copy, "trials"))
    with pytest.raises(UserError, match="no complete trial"):
        rates_from(copy)
