"""RoIAlign by matrix products against torchvision's kernel, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor

from vodbench_methods.detection.roi_align import roi_align

STRIDE = 4
# Inside; thinner than a cell; of no extent; over the map's right and lower edge; left of the map; all of it.
ODD_BOXES = torch.tensor(
    [
        [3.3, 5.1, 20.7, 30.2],
        [8.0, 8.0, 9.0, 30.0],
        [12.0, 7.0, 12.0, 7.0],
        [40.0, 30.0, 75.0, 60.0],
        [-30.0, 2.0, -6.0, 20.0],
        [0.0, 0.0, 52.0, 44.0],
    ]
)


def inputs() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 5, 11, 13, generator=generator, requires_grad=True)
    corner = torch.rand(20, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + torch.rand(20, 2, generator=generator) * 25), dim=1)
    return features, [ODD_BOXES, boxes]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_equals_torchvision_forward_and_backward(sampling: int, aligned: bool) -> None:
    features, boxes = inputs()
    ours = roi_align(features, boxes, 5, STRIDE, sampling=sampling, aligned=aligned)
    reference = features.detach().clone().requires_grad_()
    theirs = torchvision.ops.roi_align(reference, boxes, 5, 1 / STRIDE, sampling, aligned)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(4))
    (ours * upstream).sum().backward()
    (theirs * upstream).sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, reference.grad, rtol=1e-5, atol=1e-4)


def test_training_path_avoids_the_slow_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    features, boxes = inputs()
    expected = roi_align(features.detach(), boxes, 5, STRIDE, sampling=2, aligned=True)
    monkeypatch.setattr(torchvision.ops, "roi_align", None)
    ours = roi_align(features, boxes, 5, STRIDE, sampling=2, aligned=True)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_images_without_boxes(requires_grad: bool, sampling: int) -> None:
    features = torch.randn(2, 3, 6, 6, requires_grad=requires_grad)
    none = torch.zeros((0, 4))
    assert roi_align(features, [none, none], 7, 16, sampling=sampling, aligned=True).shape == (0, 3, 7, 7)
    one = roi_align(features, [none, torch.tensor([[0.0, 0.0, 50.0, 50.0]])], 7, 16, sampling=sampling, aligned=True)
    assert one.shape == (1, 3, 7, 7)
