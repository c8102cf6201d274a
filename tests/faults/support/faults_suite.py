"""Round after round of a study, each disturbed until it is finished, then held against one that nobody disturbed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

from faults_disturb import Fault, StuckError, disturb
from faults_invariants import Finished, Verdict, judge
from faults_study import Command, Knobs, Place, install_plugin, make_data
from faults_table import Row

# Of a round; a busy machine takes many times what an idle one does.
LIMIT_S = 1500.0


class Suite:
    """``seed`` of every draw."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self._seed = folder, seed
        self._undisturbed: dict[str, Place] = {}
        self.failed = False
        self.site = install_plugin(folder / "site")
        self.data = make_data(folder / "data")

    def local(self, home: Path) -> Place:
        """Everything on this machine's disk."""
        return Place(home=home, data=self.data, folder=str(home / "out"), tracking=f"sqlite:///{home}/mlflow.db")

    def undisturbed(self, knobs: Knobs) -> Place:
        if str(knobs) not in self._undisturbed:
            place = self.local(self.folder / f"undisturbed-{len(self._undisturbed)}")
            command = Command(place, self.site, knobs)
            try:
                command.start()
                assert command.process is not None
                command.process.wait(LIMIT_S)
                assert command.ended_well(), place.log.read_text()
            finally:
                command.end()
            self._undisturbed[str(knobs)] = place
        return self._undisturbed[str(knobs)]

    def strike(self, fault: Fault, times: int, knobs: Knobs, make_place: Callable[[Path], Place] | None = None) -> Row:
        """As many rounds as it takes for ``times`` strikes, each in a place that is made for it."""
        undisturbed = self.undisturbed(knobs)
        num_trials = math.prod(map(len, knobs.values()))
        rng = random.Random(f"{self._seed} {fault.name}")
        struck, starts, verdict = 0, 0, Verdict()
        for number in range(times):  # a round without a strike cannot go on for ever
            place = (make_place or self.local)(self.folder / f"{fault.name}-{number}".replace(" ", "-"))
            command, finished = Command(place, self.site, knobs), Finished(place)
            try:
                struck += disturb(command, fault, times - struck, rng, LIMIT_S, finished.look)
                verdict += judge(place, finished, undisturbed, num_trials)
            except StuckError as error:
                verdict.lost.append(str(error))
            starts += command.starts
            if struck >= times or verdict:
                break
        self.failed |= bool(verdict)
        return Row(fault.name, struck, starts, verdict)
