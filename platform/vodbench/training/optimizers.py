"""The optimiser that a stage's schedule names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vodbench.errors import unknown
from vodbench.spec import Schedule


def make_optimizer(schedule: Schedule, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """A fresh optimiser with the schedule's rate, momentum and L2 penalty. ``UserError`` for an unknown name.

    ``momentum`` is that of SGD and RMSprop, and the decay of Adam's first moment (its second: 0.999).
    """
    rate, decay, momentum = schedule.learning_rate, schedule.weight_decay, schedule.momentum
    match schedule.optimizer:
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=rate, momentum=momentum, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, betas=(momentum, 0.999), weight_decay=decay)
    raise unknown("optimizer", schedule.optimizer, ("sgd", "rmsprop", "adam"))
