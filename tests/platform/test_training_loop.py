"""The optimisation of one stage: rates, steps, continuing, several workers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vodbench.spec import Clip, ClipSpec, Schedule
from vodbench.training.keeper import Folder, Keeper
from vodbench.training.loop import StageTrainer, TrainingError, derived_seed, learning_rate
from vodbench.training.peers import Peers, running_statistics


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _trainer(learner: ModuleType, name: str = "learner-full", index: int = -1, **knobs: Any) -> StageTrainer:
    config = learner.LearnerConfig(**knobs)
    torch.manual_seed(0)
    method = learner.LearnerMethod(config, 2, name)
    return StageTrainer(method, learner.stages(config, name)[index], index=1, seed=5)


def _clips(learner: ModuleType, start: int = 0) -> Iterator[Clip]:
    number = start
    while True:
        yield learner.make_clip(7, number)
        number += 1


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_rate_warms_up_linearly_and_falls_at_the_milestones() -> None:
    schedule = Schedule(
        iterations=10, batch_size=1, learning_rate=0.6, warmup_iterations=4, warmup_factor=0.5, milestones=(6, 8)
    )
    expected = [0.3, 0.375, 0.45, 0.525, 0.6, 0.6, 0.06, 0.06, 0.006, 0.006]
    assert [learning_rate(schedule, i) for i in range(10)] == pytest.approx(expected, rel=1e-12)


def test_seeds_differ_in_every_part_and_fit_both_generators() -> None:
    seeds = {derived_seed("step", s, i, r) for s in range(5) for i in range(50) for r in range(3)}
    assert len(seeds) == 750
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_is_plain_sgd_over_the_clips(learner: ModuleType) -> None:
    """Oracle: SGD with momentum, decay and clipping written out by hand, without the trainer's code."""
    trainer = _trainer(learner, iterations=5)
    schedule = trainer.schedule
    torch.manual_seed(0)
    other = learner.LearnerMethod(trainer.method.config, 2, "learner-full").train()
    other.begin_stage(trainer.stage)
    velocity: dict[str, torch.Tensor] = {}
    clips = _clips(learner)
    for step in range(5):
        torch.manual_seed(derived_seed("step", 5, 1, step, 0))
        losses = other.losses([next(clips) for _ in range(4)])
        other.zero_grad()
        sum(losses.values()).backward()
        grads = {n: p.grad for n, p in other.named_parameters() if p.requires_grad and p.grad is not None}
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads.values()))
        scale = min(1.0, schedule.clip_gradient_norm / (norm + 1e-6))
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                if name in grads:
                    gradient = grads[name] * scale + schedule.weight_decay * parameter
                    velocity[name] = velocity[name] * schedule.momentum + gradient if step else gradient
                    parameter -= learning_rate(schedule, step) * velocity[name]

    trainer.run(_clips(learner))
    for name, tensor in trainer.module.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=1e-6, atol=1e-7, msg=name)


def test_what_a_stage_freezes_stays_and_the_rest_moves(learner: ModuleType) -> None:
    trainer = _trainer(learner)
    before = {name: tensor.clone() for name, tensor in trainer.module.state_dict().items()}
    trainer.run(_clips(learner))
    after = trainer.module.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    frozen = {f"frozen.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert still == frozen | {"body.0.weight", "body.0.bias", "unused.weight", "unused.bias"}


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_continuing_from_the_file_is_bit_exact(learner: ModuleType, tmp_path: Path, stop: int) -> None:
    whole = _trainer(learner)
    whole.run(_clips(learner))

    keeper = Keeper(Folder(str(tmp_path), "f"), every_s=0)
    first = _trainer(learner)

    def after_step() -> None:
        if first.iteration == stop:
            keeper.save(first.state())
        if first.iteration == min(stop + 2, 20):  # steps after the last checkpoint are lost, and done again
            raise InterruptedError

    with pytest.raises(InterruptedError):
        first.run(_clips(learner), after_step)

    data = keeper.load()
    assert data is not None
    second = _trainer(learner)
    torch.rand(100)  # the state of torch's generator does not matter
    second.restore(keeper.decode(data))
    assert second.iteration == stop
    second.run(_clips(learner, start=stop * 4))
    assert _equal(second.module.state_dict(), whole.module.state_dict())
    assert _equal(_momenta(second), _momenta(whole))
    assert [p["loss"] for p in second.history] == [p["loss"] for p in whole.history]


def _momenta(trainer: StageTrainer) -> dict[str, torch.Tensor]:
    state = trainer.optimizer.state_dict()["state"]
    return {str(index): entry["momentum_buffer"] for index, entry in state.items()}


def test_resuming_without_momentum_would_be_noticed(learner: ModuleType) -> None:
    """The planted fault: the comparison above tells a run that lost its optimiser from one that did not."""
    whole, halted = _trainer(learner), _trainer(learner)
    whole.run(_clips(learner))
    clips = _clips(learner)
    halted.schedule = Schedule(**{**_fields(halted.schedule), "iterations": 10})
    halted.run(clips)
    resumed = _trainer(learner)
    resumed.module.load_state_dict(halted.module.state_dict())
    resumed.iteration = 10
    resumed.run(clips)
    assert not _equal(resumed.module.state_dict(), whole.module.state_dict())


def _fields(schedule: Schedule) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in schedule.__dataclass_fields__}


def test_a_loss_that_is_not_finite_stops_with_iteration_and_losses(learner: ModuleType) -> None:
    trainer = _trainer(learner, explode=True)
    with pytest.raises(TrainingError, match=r"stage 'full' of learner-full, iteration 3 .*fit inf.*small [0-9]"):
        trainer.run(_clips(learner))
    assert all(bool(torch.isfinite(t).all()) for t in trainer.module.state_dict().values())


def test_a_data_set_that_ends_is_an_error(learner: ModuleType) -> None:
    with pytest.raises(TrainingError, match=r"iteration 2 .*ran out of clips"):
        _trainer(learner).run(iter([learner.make_clip(0, n) for n in range(10)]))


def test_the_curve_has_means_and_a_last_point(learner: ModuleType) -> None:
    trainer = _trainer(learner, iterations=250)
    losses: list[float] = []
    step = trainer._step

    def spy(iteration: int, batch: list[Clip]) -> tuple[dict[str, float], float]:
        result = step(iteration, batch)
        losses.append(result[1])
        return result

    trainer._step = spy  # type: ignore[method-assign]
    trainer.run(_clips(learner))
    assert [p["iteration"] for p in trainer.history] == list(range(2, 251, 2))
    assert trainer.history[3]["loss"] == pytest.approx((losses[6] + losses[7]) / 2)
    assert trainer.history[-1].keys() == {"iteration", "learning_rate", "fit", "small", "loss", "clips_per_second"}


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_are_disjoint_and_complete(world: int) -> None:
    for start, stop in ((0, 4), (4, 8), (6, 9), (3, 4)):
        counts = [Peers(rank, world).share(start, stop) for rank in range(world)]
        assert counts == [sum(n % world == rank for n in range(start, stop)) for rank in range(world)]


def test_running_statistics_leave_frozen_layers_alone(learner: ModuleType) -> None:
    trainer = _trainer(learner)
    body = trainer.module.get_submodule("body.1")
    found = running_statistics(trainer.module)
    assert [id(t) for t in found] == [id(body.running_mean), id(body.running_var)]


@pytest.mark.slow
def test_workers_together_compute_what_one_computes(learner: ModuleType, tmp_path: Path) -> None:
    """Without batch norm and noise the batch mean does not depend on how the batch is split, also unevenly (3 = 2 + 1).

    With it, workers hold the same model after every step, and a second run repeats the first to the last bit.
    """
    plain = learner.LearnerConfig(normal=False, batch=3, iterations=12)
    normal = learner.LearnerConfig(batch=3, iterations=12)
    arguments = (2, (plain, normal, normal), str(tmp_path / "meeting"), str(tmp_path))
    torch.multiprocessing.spawn(learner.train_in_group, arguments, nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))

    assert _equal(first[0], second[0])
    alone = learner.train_base(plain, Peers())
    for name, tensor in alone.items():  # the round-off of 12 steps; an unweighted mean is off by 2e-3
        torch.testing.assert_close(first[0][name], tensor, rtol=0, atol=1e-6, msg=name)

    counters = {name for name in first[1] if name.endswith("num_batches_tracked")}
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1].keys() - counters)
    assert _equal(first[1], first[2])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_take_whole_groups_of_clips(world: int) -> None:
    """Against counting: the clips of a step that are a worker's by n // group % world."""
    for step in range(5):
        numbers = range(step * 12, (step + 1) * 12)
        for rank in range(world):
            mine = [n for n in numbers if n // 4 % world == rank]
            assert Peers(rank, world).share(numbers.start, numbers.stop, 4) == len(mine)


def test_a_step_takes_the_groups_that_are_its_workers(learner: ModuleType) -> None:
    config = learner.LearnerConfig(batch=8, iterations=4)
    (stage,) = learner.stages(config, "learner-base")
    stage = dataclasses.replace(stage, clips=ClipSpec(categories=2, videos=2))
    taken: list[list[int]] = []

    class Noting(learner.LearnerMethod):  # type: ignore[name-defined, misc]
        def losses(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
            taken.append([clip.number for clip in clips])
            return super().losses(clips)  # type: ignore[no-any-return]

    trainer = StageTrainer(Noting(config, 2, "learner-base"), stage)
    trainer.run(_clips(learner))
    assert taken == [list(range(step * 8, (step + 1) * 8)) for step in range(4)]
