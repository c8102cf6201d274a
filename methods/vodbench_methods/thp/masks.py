"""Where a propagated map is computed anew: U = [Q <= 0] (Zhu et al., THP, CVPR 2018, Sec. 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vodbench_methods.flow import FlowOutput


def update_mask(logits: Tensor) -> Tensor:
    """(N, 1, h, w) logits Q -> U in {0, 1}: 1 where Q <= 0.

    A step has no gradient; the paper's stands in for it: dU / dQ = -1 where |Q| <= 1, else 0.
    """
    mask: Tensor = _StraightThrough.apply(logits)
    return mask


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return (logits <= 0).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return torch.where(logits.abs() <= 1, -gradients[0], 0.0)


def with_mask_gradient(maps: Tensor, mask: Tensor, anew: Tensor, propagated: Tensor) -> Tensor:
    """``maps``, with the gradient with respect to ``mask`` of U anew + (1 - U) propagated.

    The layer-by-layer computation itself has none where U = 0: on propagated inputs, a layer gives what was propagated,
    and nothing would ever tell that computing anew helps. All (N, C, h, w) but ``mask`` (N, 1, h, w).
    """
    return maps + (mask - mask.detach()) * (anew - propagated).detach()


def updated_cells(output: FlowOutput, threshold: float) -> Tensor:
    """(N, 1, h, w) bool: where the flow network's Q is at most ``threshold``."""
    assert output.update is not None, "a flow network that predicts Q"
    return output.update <= threshold


def enlarged(cells: Tensor, ratio: int, height: int, width: int) -> Tensor:
    """(..., h, w) -> (..., height, width) by nearest neighbours, for a map of ``ratio`` times as many cells.

    ``height`` may be up to ``ratio - 1`` less than ``ratio * h`` (sizes round up at each stride), ``width`` likewise.
    """
    if ratio == 1:
        return cells
    return cells.repeat_interleave(ratio, -2)[..., :height, :].repeat_interleave(ratio, -1)[..., :width]
