"""End-point error against known flow: training and measuring flow networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vodbench_methods.flow.network import ScaledFlow
from vodbench_methods.flow.truth import pooled

# FlowNet sums 0.005, 0.01, 0.02, 0.08, 0.32 (finest first) over the cells of each resolution; over mean errors that is
# about 1, 1/2, 1/4, 1/4, 1/4, since each resolution has a quarter of the cells of the finer one.
_WEIGHTS = (1.0, 0.5, 0.25)


def end_point_errors(predicted: ScaledFlow, truth: Tensor) -> Tensor:
    """Pixels between where each cell is and where the flow puts it: (N, h, w), NaN where ``truth`` is unknown.

    truth: (N, 2, H, W) in pixels of the images, NaN where unknown; it is averaged over each cell.
    """
    errors: Tensor = torch.linalg.vector_norm(predicted.flow - pooled(truth, predicted.stride), dim=1)
    return errors


def end_point_error(predicted: ScaledFlow, truth: Tensor) -> Tensor:
    """Mean of ``end_point_errors`` over the known cells, in pixels; zero where none is known."""
    target = pooled(truth, predicted.stride)
    known = ~torch.isnan(target[:, 0])
    # Unknown cells are compared with themselves: NaN would pass into the gradient of every weight.
    difference = predicted.flow - torch.where(known[:, None], target, predicted.flow.detach())
    mean: Tensor = torch.linalg.vector_norm(difference, dim=1).sum() / known.sum().clamp(min=1)
    return mean


def multi_scale_loss(pyramid: Sequence[ScaledFlow], truth: Tensor) -> Tensor:
    """Weighted sum of the end-point errors of every resolution, coarse to fine as ``FlowNetwork.pyramid`` gives them.

    The finest counts once, the next half, the others a quarter (Dosovitskiy et al. 2015).
    """
    weights = [_WEIGHTS[min(place, len(_WEIGHTS) - 1)] for place in range(len(pyramid))]
    errors = [end_point_error(level, truth) for level in reversed(pyramid)]
    return torch.stack([w * e for w, e in zip(weights, errors, strict=True)]).sum()
