"""The workers that train one model together, and what they tell each other after each step.

Gradients are summed by one explicit all-reduce a step rather than by ``DistributedDataParallel``: a method offers
``losses``, not ``forward``; parameters that a clip does not touch need no special case; the order of summation is
fixed, so a run repeats bit for bit; and a worker that got no clip of a small batch simply adds zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, slots=True)
class Peers:
    """This worker's place among ``world`` workers; with one worker nothing is exchanged."""

    rank: int = 0
    world: int = 1

    def share(self, start: int, stop: int, group: int = 1) -> int:
        """How many of the numbers ``start``..``stop - 1`` are this worker's: whole groups, those with
        ``n // group % world == rank``."""
        assert start % group == stop % group == 0, (start, stop, group)
        first, end = start // group, stop // group
        return group * len(range(first + (self.rank - first) % self.world, end, self.world))

    def combine(self, parameters: Sequence[nn.Parameter], module: nn.Module, loss: float, weight: float) -> float:
        """Sum gradients and the loss over workers, and average the running statistics of batch norm.

        ``weight`` is this worker's part of the batch; losses come multiplied with it. Batch norm in training mode
        normalises with each worker's own part of the batch, as usual in data-parallel training; its running statistics
        are averaged with the same weights, so that after every step all workers hold the same model and any of them
        (rank 0) can be saved and continued from.

        Returns the loss of the whole batch.
        """
        if self.world == 1:
            return loss
        device = parameters[0].device
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        statistics = running_statistics(module)
        used = torch.tensor([p.grad is not None for p in parameters] + [loss], dtype=torch.float32, device=device)
        flat = torch.cat([*(g.flatten() for g in gradients), *(s.flatten() * weight for s in statistics), used])
        with _peer_errors():
            dist.all_reduce(flat)
        sizes = [t.numel() for t in (*gradients, *statistics, used)]
        parts = torch.split(flat, sizes)
        touched = parts[-1][:-1].tolist()
        for parameter, part, count in zip(parameters, parts, touched, strict=False):
            # A parameter that no worker used keeps no gradient, as with one worker: no decay, no momentum.
            parameter.grad = part.view_as(parameter) if count else None
        for statistic, part in zip(statistics, parts[len(gradients) :], strict=False):
            statistic.copy_(part.view_as(statistic))
        return float(parts[-1][-1])

    def from_first(self, data: bytes | None) -> bytes | None:
        """Rank 0's ``data``, on every worker."""
        if self.world == 1:
            return data
        box = [data if self.rank == 0 else None]
        with _peer_errors():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until every worker is here."""
        if self.world > 1:
            with _peer_errors():
                dist.barrier()


@contextmanager
def _peer_errors() -> Iterator[None]:
    """A peer that died shows as a ``RuntimeError`` of the transport; say so in a type that callers can tell apart."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"another training worker is gone ({error})") from error


def running_statistics(module: nn.Module) -> list[torch.Tensor]:
    """The buffers that batch norm layers update in training mode; those of frozen layers are left alone."""
    return [
        statistic
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]
