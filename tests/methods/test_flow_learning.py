"""That a flow network learns to see motion."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vodbench_methods.flow import ScaledFlow, build_flow_network, end_point_error, multi_scale_loss


def moving_textures(count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of 8 windows of 48 px that move over random textures by whole pixels, at most 8: current, key, truth."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        coarse = torch.rand(8, 3, 12, 12, generator=generator)
        texture = F.interpolate(coarse, size=(72, 72), mode="bilinear") + 0.3 * torch.rand(
            8, 3, 72, 72, generator=generator
        )
        shifts = torch.randint(-8, 9, (8, 2), generator=generator)
        # What is at p in the current window is at p + shift in the key window.
        key = torch.stack([t[:, 12 - y : 60 - y, 12 - x : 60 - x] for t, (x, y) in zip(texture, shifts, strict=True)])
        truth = shifts.float()[:, :, None, None].expand(-1, -1, 48, 48)
        yield texture[:, :, 12:60, 12:60], key, truth


def test_tiny_learns_motion() -> None:
    """The end-point error on unseen textures falls well below that of predicting no motion, in pixels."""
    torch.manual_seed(0)
    network = build_flow_network("tiny", feature_stride=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for current, key, truth in moving_textures(150, seed=1):
        optimizer.zero_grad()
        multi_scale_loss(network.pyramid(current, key), truth).backward()
        optimizer.step()
    trained, still = [], []
    with torch.no_grad():
        for current, key, truth in moving_textures(4, seed=2):
            predicted = network.pyramid(current, key)[-1]
            trained.append(end_point_error(predicted, truth))
            still.append(end_point_error(ScaledFlow(torch.zeros_like(predicted.flow), 4), truth))
    assert sum(trained) < 0.5 * sum(still)
