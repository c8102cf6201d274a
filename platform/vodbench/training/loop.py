"""The optimisation of one stage on one worker. No files, no Ray: weights in, weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import nn

from vodbench.fingerprint import fingerprint
from vodbench.spec import Clip, Method, Schedule, Stage
from vodbench.training.optimizers import make_optimizer
from vodbench.training.peers import Peers

HISTORY_POINTS = 100  # a stage's curve, whatever its length


class TrainingError(RuntimeError):
    """Training cannot go on, and would fail again in the same way. The message is one line, for the user."""


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """The rate of step ``iteration`` (0-based): linear warm-up from ``warmup_factor``, then steps at the milestones."""
    rate = schedule.learning_rate * schedule.decay ** sum(iteration >= m for m in schedule.milestones)
    if iteration < schedule.warmup_iterations:
        done = iteration / schedule.warmup_iterations
        rate *= schedule.warmup_factor * (1 - done) + done
    return rate


def derived_seed(*parts: str | int) -> int:
    """A seed that differs whenever any part does; fits torch's and NumPy's generators."""
    return int(fingerprint(*parts), 16) >> 2


class StageTrainer:
    """Gradient descent over one stage's clips, stoppable and continuable after any step.

    The state after step n is a function of the state before it and of (seed, stage index, n, rank) alone: torch's
    generator is seeded anew for each step. So a run continued from ``state()`` equals an undisturbed one bit for bit
    on a CPU with the same number of workers and threads.

    Attributes:
        iteration: steps done.
        history: points of the training curve, each a mean over the steps since the one before: ``iteration``, ``loss``
            (whole batch), the method's own losses (this worker's clips), ``learning_rate``, ``clips_per_second``.
    """

    def __init__(
        self,
        method: Method,
        stage: Stage,
        *,
        index: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
        peers: Peers | None = None,
    ) -> None:
        assert isinstance(method, nn.Module), "a method is a torch.nn.Module"
        self.method, self.module = method, method.to(device).train()
        self.stage, self.schedule = stage, stage.schedule
        self.index, self.seed = index, seed
        self.device, self.peers = torch.device(device), peers or Peers()
        method.begin_stage(stage)  # after train(), so that what it freezes stays frozen
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        assert self.parameters, f"stage '{stage.name}' of {stage.method} trains nothing"
        self.optimizer = make_optimizer(self.schedule, self.parameters)
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        self._window = _Window()

    def state(self) -> dict[str, Any]:
        """Everything ``restore`` needs, as plain values and CPU or device tensors."""
        return {
            "iteration": self.iteration,
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = int(state["iteration"])
        self.history = list(state["history"])
        self._window = _Window()

    def run(
        self,
        clips: Iterator[Clip],
        after_step: Callable[[], None] = lambda: None,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        until: int | None = None,
    ) -> None:
        """Do the steps that remain, or those before iteration ``until``.

        Args:
            clips: this worker's clips from number ``iteration * batch_size`` on, in order.
            after_step: called after each step, when ``iteration`` already counts it.
            guard: each step is taken inside ``guard()``.

        Raises:
            TrainingError: a loss is not finite, or the clips end early.
        """
        size, group = self.schedule.batch_size, self.stage.clips.group_size
        for iteration in range(self.iteration, self.schedule.iterations if until is None else until):
            share = self.peers.share(iteration * size, (iteration + 1) * size, group)
            batch = list(islice(clips, share))
            if len(batch) < share:
                raise TrainingError(f"{self._at(iteration)}: the data set ran out of clips; it must repeat endlessly")
            with guard():
                losses, total = self._step(iteration, batch)
            self.iteration = iteration + 1
            self._record(losses, total)
            after_step()

    def _step(self, iteration: int, batch: list[Clip]) -> tuple[dict[str, float], float]:
        """One step; returns this worker's losses and the loss of the whole batch."""
        torch.manual_seed(derived_seed("step", self.seed, self.index, iteration, self.peers.rank))
        weight = len(batch) / self.schedule.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batch, weight) if batch else {}
        total = self.peers.combine(self.parameters, self.module, weight * sum(losses.values()), weight)
        if not math.isfinite(total):
            values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise TrainingError(
                f"{self._at(iteration)}: the loss is {total} ({values}); lower the learning rate, warm up longer, or "
                "clip gradients"
            )
        if self.schedule.clip_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, iteration)
        self.optimizer.step()
        return losses, total

    def _backward(self, batch: list[Clip], weight: float) -> dict[str, float]:
        """Add the gradient of this worker's part of the batch mean.

        ``losses`` are means over the clips given; times this worker's part of the batch, the sum over workers is the
        mean over the batch, also where the batch does not divide evenly.
        """
        # bf16 has float32's range, so no loss scaling is needed.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            losses = self.method.losses(batch)
        loss: torch.Tensor = weight * torch.stack([value.float() for value in losses.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return {name: float(value.detach()) for name, value in losses.items()}

    def _record(self, losses: Mapping[str, float], total: float) -> None:
        self._window.add({**losses, "loss": total}, self.schedule.batch_size)
        every = max(1, self.schedule.iterations // HISTORY_POINTS)
        if self.iteration % every == 0 or self.iteration == self.schedule.iterations:
            rate = learning_rate(self.schedule, self.iteration - 1)
            self.history.append({"iteration": self.iteration, "learning_rate": rate, **self._window.close()})

    def _at(self, iteration: int) -> str:
        return f"stage '{self.stage.name}' of {self.stage.method}, iteration {iteration} (worker {self.peers.rank})"


class _Window:
    """Means since the last point of the curve."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._clips = 0
        self._since = time.perf_counter()

    def add(self, values: Mapping[str, float], clips: int) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._clips += clips

    def close(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._since, 1e-9)
        means = {name: total / self._steps for name, total in self._sums.items()}
        means["clips_per_second"] = self._clips / seconds
        self.__init__()  # type: ignore[misc]
        return means
