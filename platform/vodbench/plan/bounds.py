"""What a sweep cannot be faster than, whatever is added elsewhere: the highest of these bounds is what limits it."""

from __future__ import annotations

from dataclasses import dataclass

from vodbench.plan.engine import Machines
from vodbench.plan.priced import Trial, Work
from vodbench.plan.simulate import Scenario


@dataclass(frozen=True, kw_only=True)
class Bound:
    """``seconds``: a lower bound of the wall time, stragglers and failures aside. ``why``: what makes it."""

    name: str
    seconds: float
    why: str


def bounds(work: Work, machines: Machines, scenario: Scenario) -> list[Bound]:
    """All of them, the highest first."""
    found = [
        _chain(work),
        _room(work, scenario),
        Bound(
            name="measuring",
            seconds=work.start_s + sum(trial.measure_s for trial in work.trials) / scenario.measuring_nodes,
            why=f"{len(work.trials)} runtimes, one at a time on {_counted(scenario.measuring_nodes, 'node')}",
        ),
        Bound(
            name="driver",
            seconds=work.start_s + work.trial_s * len(work.trials),
            why=f"{len(work.trials)} trials, {work.trial_s:.2g} s each, one after the other",
        ),
        *_storage(work, machines),
    ]
    return sorted(found, key=lambda bound: -bound.seconds)


def least_read_bytes(work: Work) -> float:
    """What is read at least: each training once, and frames once for all trials that may share them."""
    frames = len({trial.encoding or trial.name for trial in work.trials}) if not work.ahead else len(_weights(work))
    return sum(training.read_bytes for training in work.trainings.values()) + frames * work.read_bytes


def _chain(work: Work) -> Bound:
    """The longest way from the beginning to the end of a trial: with endless GPUs it is what remains."""
    best = max(work.trials, key=lambda trial: _way(work, trial))
    names = ", ".join(dict.fromkeys(work.trainings[name].name for name in best.chain))
    return Bound(name="longest chain", seconds=work.start_s + _way(work, best), why=f"one trial: {names}, then its own")


def _way(work: Work, trial: Trial) -> float:
    training = work.train_start_s + sum(work.trainings[name].seconds for name in trial.chain)
    # Its frames may be encoded by another trial, which takes as long.
    detecting = work.pass_start_s + (trial.encode_s * (1 - work.kept) + trial.own_s) / work.detect_slots
    return training + detecting + trial.score_s + trial.measure_s + work.trial_s


def _room(work: Work, scenario: Scenario) -> Bound:
    """All that a trial's place is held for, over the places. Waiting for another trial's training is not in it."""
    trainings = sum(training.seconds for training in work.trainings.values())
    detecting = (sum(encodings(work).values()) + sum(trial.own_s for trial in work.trials)) / work.detect_slots
    after = sum(trial.score_s + trial.measure_s + work.trial_s for trial in work.trials)
    return Bound(
        name="places",
        seconds=work.start_s + (trainings + detecting + after) / scenario.at_once,
        why=f"{_counted(len(work.trials), 'trial')}, {scenario.at_once} at once",
    )


def _storage(work: Work, machines: Machines) -> list[Bound]:
    if machines.storage_bytes_s is None:
        return []
    seconds = work.start_s + least_read_bytes(work) / machines.storage_bytes_s
    return [Bound(name="storage", seconds=seconds, why=f"{machines.storage_bytes_s / 1e9:g} GB/s for all readers")]


def encodings(work: Work) -> dict[str, float]:
    """Process-seconds of every distinct encoding of all frames; what cannot be shared goes by its trial."""
    found: dict[str, float] = {}
    for trial in work.trials:
        name = trial.encoding or trial.name
        found[name] = min(trial.encode_s, found.get(name, trial.encode_s))
    return found


def _weights(work: Work) -> set[str]:
    return {trial.chain[-1] for trial in work.trials}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
