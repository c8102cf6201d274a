"""A sweep as a discrete-event simulation: trials at once, claims, passes, measurements, the driver; what fails, what
is slow.

It follows what a sweep does (``vodbench.sweeps``, ``vodbench.training.driver``): a stage is trained once, by whoever
claims it, and others wait for it; an accuracy pass takes kept frames instead of encoding them; a runtime is measured
where the trial's process is, and work there stands still; a trial ends with the driver's part, one after the other.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import simpy

from vodbench.plan.engine import Engine, Ledger, Machines, Piece, Process
from vodbench.plan.priced import Trial, Work


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How a sweep is run, and what goes wrong.

    ``measuring_nodes``: on which trials' processes sit. ``straggle``: deviation of the logarithm of each worker's time
    in a piece of work, whose mean stays. ``mtbf_s``: of one node (exponential), None: none fails; it is back after
    ``repair_s``, and what its work did since the last checkpoint (every ``checkpoint_s``) is done again.
    """

    at_once: int = 1
    measuring_nodes: int = 1
    straggle: float = 0.0
    mtbf_s: float | None = None
    repair_s: float = 600.0
    checkpoint_s: float = 15.0
    seed: int = 0

    @property
    def certain(self) -> bool:
        """Whether every run of it is the same."""
        return not self.straggle and self.mtbf_s is None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One simulated sweep. ``trainings`` and ``passes`` count what was begun and not there before."""

    wall_s: float
    ledger: Ledger
    failures: int
    trainings: int
    passes: int
    read_bytes: float


def simulate(work: Work, machines: Machines, scenario: Scenario) -> Outcome:
    """Run the sweep once. Equal arguments give equal outcomes."""
    assert work.train_slots <= machines.slots, "a training that does not fit would wait for ever"
    return _Sweep(work, machines, scenario).outcome()


class _Sweep:
    def __init__(self, work: Work, machines: Machines, scenario: Scenario) -> None:
        self._work, self._scenario = work, scenario
        self._env = simpy.Environment()
        self._engine = Engine(self._env, machines)
        self._detect_slots = min(work.detect_slots, machines.slots)
        self._driver = simpy.Resource(self._env, 1)
        self._claimed: set[str] = set()
        self._trained = {name: self._env.event() for name in work.trainings}
        self._kept: set[str] = set()  # encodings of which frames are kept
        self._detected: set[str] = set()
        self._at_work: dict[simpy.Process, Counter[int]] = {}  # who hears of a node's failure
        self._nodes = machines.nodes
        self._failures = self._passes = 0
        self._read_bytes = 0.0

    def outcome(self) -> Outcome:
        if self._scenario.mtbf_s is not None:
            for node in range(self._nodes):
                self._env.process(self._failing(node, self._scenario.mtbf_s))
        self._env.run(until=self._env.process(self._whole()))
        self._engine.settle()
        return Outcome(
            wall_s=float(self._env.now),
            ledger=self._engine.ledger,
            failures=self._failures,
            trainings=len(self._claimed),
            passes=self._passes,
            read_bytes=self._read_bytes,
        )

    # ---- the sweep --------------------------------------------------------------------------------------

    def _whole(self) -> Process:
        yield self._env.timeout(self._work.start_s)
        if self._work.ahead:
            yield from self._ahead()
        room = simpy.Resource(self._env, self._scenario.at_once)
        units = [self._env.process(self._unit(number, unit, room)) for number, unit in enumerate(self._work.units)]
        yield self._env.all_of(units)

    def _ahead(self) -> Process:
        """All trainings of a seed in one Ray Train run, then one pass a checkpoint for the trials that share it."""
        trials = self._work.trials
        for seed in dict.fromkeys(trial.seed for trial in trials):
            chains = [name for trial in trials if trial.seed == seed for name in trial.chain]
            yield from self._train([name for name in dict.fromkeys(chains) if name not in self._claimed])
        by_weights: dict[str, list[Trial]] = {}
        for trial in trials:
            by_weights.setdefault(trial.chain[-1], []).append(trial)
        for sharing in by_weights.values():
            for first in range(0, len(sharing), self._work.configs_a_pass):
                yield from self._pass(sharing[first : first + self._work.configs_a_pass])

    def _unit(self, number: int, trials: Sequence[Trial], room: simpy.Resource) -> Process:
        with room.request() as turn:
            yield turn
            for trial in trials:
                yield from self._wanted(trial.chain)
                if trial.name not in self._detected:
                    yield from self._pass([trial])
                yield self._env.timeout(trial.score_s)
                yield from self._measure(trial, number % self._scenario.measuring_nodes)
            with self._driver.request() as driver:
                yield driver
                yield self._env.timeout(self._work.trial_s * len(trials))

    # ---- trainings --------------------------------------------------------------------------------------

    def _wanted(self, chain: Sequence[str]) -> Process:
        """Train what nobody has claimed, wait for what others train (``train_all``)."""
        while missing := self._missing(chain):
            others = next((name for name in missing if name in self._claimed), None)
            if others is not None:
                yield self._trained[others]
            else:
                yield from self._train(missing)

    def _missing(self, chain: Sequence[str]) -> list[str]:
        finished = [index for index, name in enumerate(chain) if self._trained[name].triggered]
        return list(chain[finished[-1] + 1 :] if finished else chain)

    def _train(self, names: Sequence[str]) -> Process:
        """One Ray Train run."""
        if not names:
            return
        self._claimed.update(names)
        trainings = [(name, self._work.trainings[name]) for name in names]
        tasks = [
            _Task(
                seconds=training.seconds * self._slowest(name, self._work.train_slots),
                read_bytes=training.read_bytes,
                together=True,
                done=self._trained[name],
            )
            for name, training in trainings
        ]
        self._read_bytes += sum(training.read_bytes for _, training in trainings)
        yield from self._compute(self._work.train_slots, self._work.train_start_s, tasks)

    # ---- accuracy passes --------------------------------------------------------------------------------

    def _pass(self, trials: Sequence[Trial]) -> Process:
        """Trials of one checkpoint: what they can share is encoded once, and not at all where it is kept."""
        work, slots = self._work, self._detect_slots
        shared = {trial.encoding: trial for trial in trials if trial.encoding is not None}
        fresh = {name: 1.0 - work.kept * (name in self._kept) for name in shared}
        alone = [trial for trial in trials if trial.encoding is None]
        encoding = sum(share * shared[name].encode_s for name, share in fresh.items()) + sum(t.encode_s for t in alone)
        images = 1.0 if alone else max(fresh.values())  # share of the frames that are read
        seconds = (encoding + sum(trial.own_s for trial in trials)) / slots
        task = _Task(seconds=seconds * self._average(trials[0].name, slots), read_bytes=images * work.read_bytes)
        start_s = work.pass_start_s + (0.0 if self._passes else work.first_pass_s)
        self._passes += 1
        self._read_bytes += task.read_bytes
        yield from self._compute(slots, start_s, [task])
        self._kept.update(shared if work.kept else ())
        self._detected.update(trial.name for trial in trials)

    # ---- measurements -----------------------------------------------------------------------------------

    def _measure(self, trial: Trial, home: int) -> Process:
        """Alone on its node. What a failure cuts short is begun again, on the next node that is up."""
        left = trial.measure_s > 0
        while left:
            node = self._up(home)
            with self._engine.gates[node].request() as gate:
                yield gate
                if self._engine.is_down(node):
                    continue
                piece = self._engine.piece(trial.measure_s, measures=node)
                if (yield from self._undisturbed(piece, Counter({node: 1}))):
                    left = False
                else:
                    self._engine.ledger.measuring -= piece.worked
                    self._engine.ledger.lost += piece.worked

    def _up(self, home: int) -> int:
        others = ((home + step) % self._nodes for step in range(self._nodes))
        return next((node for node in others if not self._engine.is_down(node)), home)

    # ---- work that may fail -----------------------------------------------------------------------------

    def _compute(self, slots: int, start_s: float, tasks: Sequence[_Task]) -> Process:
        """Hold slots, start, and do the tasks in turn; after a failure hold others, start again, and go on."""
        engine = self._engine
        held: Counter[int] = yield engine.hold(slots)
        started = False
        left = list(tasks)
        while left:
            task = left[0]
            piece = engine.piece(start_s, held, useful=False) if not started else task.piece(engine, held)
            if (yield from self._undisturbed(piece, held)):
                if started:
                    left.pop(0)
                    task.finish()
                started = True
                continue
            if piece.useful:
                left[0] = self._cut_short(task, piece, slots)
            engine.give_back(held)
            held = yield engine.hold(slots)
            started = False
        engine.give_back(held)

    def _cut_short(self, task: _Task, piece: Piece, slots: int) -> _Task:
        """What is left of a task: all but what was done before its last checkpoint."""
        lost = math.fmod(piece.worked, self._scenario.checkpoint_s)
        self._engine.ledger.useful -= lost * slots
        self._engine.ledger.lost += lost * slots
        return replace(task, finished_s=task.finished_s + piece.worked - lost)

    def _undisturbed(self, piece: Piece, nodes: Counter[int]) -> Process:
        """Run a piece; False where a node failed under it."""
        process = self._env.active_process
        assert process is not None
        self._at_work[process] = nodes
        try:
            yield self._engine.run(piece)
            return True
        except simpy.Interrupt:
            self._engine.stop(piece)
            return False
        finally:
            del self._at_work[process]

    def _failing(self, node: int, mtbf_s: float) -> Process:
        chance = random.Random(f"{self._scenario.seed}/node/{node}")
        while True:
            yield self._env.timeout(chance.expovariate(1 / mtbf_s))
            self._failures += 1
            self._engine.set_down(node, down=True)
            for process in [process for process, nodes in self._at_work.items() if nodes[node]]:
                process.interrupt()
            yield self._env.timeout(self._scenario.repair_s)
            self._engine.set_down(node, down=False)

    # ---- stragglers -------------------------------------------------------------------------------------

    def _factors(self, name: str, workers: int) -> list[float]:
        """Of each worker's time, the same whatever runs beside it."""
        chance, sigma = random.Random(f"{self._scenario.seed}/{name}"), self._scenario.straggle
        return [math.exp(sigma * chance.gauss() - sigma * sigma / 2) for _ in range(workers)]

    def _slowest(self, name: str, workers: int) -> float:
        """A training's workers wait for each other."""
        return max(self._factors(name, workers))

    def _average(self, name: str, workers: int) -> float:
        """Those of a pass take the next snippets when they are ready: what counts is how fast they are together."""
        return workers / sum(1 / factor for factor in self._factors(name, workers))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Work on held slots. ``seconds`` at full speed, ``finished_s`` of them before the last failure."""

    seconds: float
    read_bytes: float = 0.0
    together: bool = False
    done: simpy.Event | None = None
    finished_s: float = 0.0

    def piece(self, engine: Engine, held: Counter[int]) -> Piece:
        demand = self.read_bytes / self.seconds if self.seconds else 0.0
        return engine.piece(self.seconds - self.finished_s, held, demand=demand, together=self.together)

    def finish(self) -> None:
        if self.done is not None:
            self.done.succeed()
