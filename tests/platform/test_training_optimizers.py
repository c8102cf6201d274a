"""The optimisers that schedules name, against their update rules written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.spec import Schedule
from vodbench.training.optimizers import make_optimizer

RATE, MOMENTUM, DECAY, EPS = 0.1, 0.8, 0.01, 1e-8
Rule = Callable[[Tensor, list[Tensor]], Tensor]


def _schedule(optimizer: str) -> Schedule:
    return Schedule(
        iterations=3, batch_size=1, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY, optimizer=optimizer
    )


def _sgd(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    velocity = torch.zeros_like(weight)
    for gradient in gradients:
        velocity = MOMENTUM * velocity + gradient + DECAY * weight
        weight = weight - RATE * velocity
    return weight


def _rmsprop(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    square, velocity = torch.zeros_like(weight), torch.zeros_like(weight)
    for raw in gradients:
        gradient = raw + DECAY * weight
        square = 0.99 * square + 0.01 * gradient**2
        velocity = MOMENTUM * velocity + gradient / (square.sqrt() + EPS)
        weight = weight - RATE * velocity
    return weight


def _adam(weight: Tensor, gradients: list[Tensor]) -> Tensor:
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, raw in enumerate(gradients, 1):
        gradient = raw + DECAY * weight
        first = MOMENTUM * first + (1 - MOMENTUM) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = (second / (1 - 0.999**step)).sqrt()
        weight = weight - RATE * first / (1 - MOMENTUM**step) / (corrected + EPS)
    return weight


@pytest.mark.parametrize(("name", "rule"), [("sgd", _sgd), ("rmsprop", _rmsprop), ("adam", _adam)])
def test_three_steps_follow_the_update_rule(name: str, rule: Rule) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, *gradients = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    parameter = nn.Parameter(weight.clone())
    optimizer = make_optimizer(_schedule(name), [parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), rule(weight, gradients), rtol=1e-12, atol=1e-12)


def test_an_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(UserError, match="adam"):
        make_optimizer(_schedule("adma"), [nn.Parameter(torch.zeros(1))])
