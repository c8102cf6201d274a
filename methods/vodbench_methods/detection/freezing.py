"""Parts of a network that a training stage leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import nn


class PartlyFrozen(nn.Module):
    """Keeps what is frozen in inference mode, too: its batch norm must not move either."""

    _frozen: Sequence[nn.Module] = ()

    def freeze(self, parts: Sequence[nn.Module]) -> None:
        """No gradient for these parts of the network; what else is trained stays as it was said before."""
        self._frozen = parts
        for part in parts:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
