"""Operations that are counted without being done, beside those of real runs."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from vodbench.plan.hollow import Hollow, operations
from vodbench.plan.made_up import clips_of, picture_size
from vodbench.plan.stages import work_of
from vodbench.registry import method_spec
from vodbench.spec import Stage
from vodbench.studies import load_study
from vodbench.timing.formulas import FORMULAS
from vodbench.training.loop import StageTrainer


def done(once: Callable[[], object]) -> float:
    """GFLOP of what is really done."""
    with FlopCounterMode(display=False, custom_mapping=dict(FORMULAS)) as counter:
        once()
    return counter.get_total_flops() / 1e9


def one_step(stage: Stage, size: tuple[int, int]) -> Callable[[], object]:
    clips = stage.clips.group_size
    alone = dataclasses.replace(stage, schedule=dataclasses.replace(stage.schedule, batch_size=clips))
    trainer = StageTrainer(method_spec(stage.method).build(stage.config, 5), alone)
    return lambda: trainer.run(clips_of(stage.clips, size, 5), until=1)


@pytest.mark.parametrize(
    "name",
    [
        "rdn-table4",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("hvrnet-table6", "semi-dff-table4", "thp-table2")),
    ],
)
def test_a_hollow_training_step_takes_as_many_operations(name: str) -> None:
    """Forwards and backwards, with assignment, suppression and sampling of what is proposed between them."""
    study = load_study(name, scale="small")
    size = picture_size(study)
    for planned in work_of(study).trainings.values():
        hollow = operations(one_step(planned.stage, size), large=1024)
        assert hollow == pytest.approx(done(one_step(planned.stage, size)), rel=0.01), planned.stage.name


def test_large_tensors_take_neither_time_nor_memory() -> None:
    layer = torch.nn.Conv2d(3, 64, 3, padding=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Hollow():
        image = torch.nn.functional.interpolate(torch.ones(1, 3, 8, 8), size=(8192, 8192))
        seen = torch.relu(layer(image)) + 1.0  # 17 GB
        small = torch.ones(3) + 1.0
        kept = seen.narrow(3, 0, 4)[0, 0, :2]
    assert seen.shape == (1, 64, 8192, 8192)
    assert small.tolist() == [2.0] * 3
    assert kept.tolist() == [[0.0] * 4] * 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB
    assert operations(lambda: layer(image)) == pytest.approx(2 * 64 * 3 * 9 * 8192**2 / 1e9)


def test_deformable_convolutions_are_counted_as_convolutions() -> None:
    """Half of what a gradient takes is that of the weights."""
    x, offset = torch.zeros(2, 8, 10, 12, requires_grad=True), torch.zeros(2, 18, 10, 12)
    weight = torch.zeros(16, 8, 3, 3, requires_grad=True)

    def deformable() -> torch.Tensor:
        found: torch.Tensor = torchvision.ops.deform_conv2d(x, offset, weight, padding=1)
        return found

    plain = done(lambda: torch.nn.functional.conv2d(x, weight, padding=1))
    assert done(deformable) == operations(deformable, large=1) == pytest.approx(plain)
    assert plain > 0
    assert done(lambda: deformable().sum().backward()) == pytest.approx(3 * plain)
