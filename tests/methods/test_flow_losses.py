"""Known flow on the cells of a map, and end-point errors against it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vodbench_methods.flow import ScaledFlow, end_point_error, end_point_errors, multi_scale_loss
from vodbench_methods.flow.truth import mirrored, pooled, resized


def random_truth(height: int, width: int, unknown: float, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    truth = torch.randn(count, 2, height, width, generator=generator)
    lost = torch.rand(count, 1, height, width, generator=generator) < unknown
    return truth.masked_fill(lost, math.nan)


def loop_pooled(truth: Tensor, stride: int) -> Tensor:
    """Pixels within half a stride of pixel ``i * stride``, one cell at a time."""
    count, _, height, width = truth.shape
    out = torch.full((count, 2, math.ceil(height / stride), math.ceil(width / stride)), math.nan)
    for n in range(count):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                top, left = i * stride - stride // 2, j * stride - stride // 2
                window = truth[n, :, max(top, 0) : top + stride, max(left, 0) : left + stride].flatten(1)
                known = window[:, ~window.isnan().any(dim=0)]
                if 2 * known.shape[1] >= window.shape[1]:
                    out[n, :, i, j] = known.mean(dim=1)
    return out


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(16, 24), (13, 9), (5, 30)])
@pytest.mark.parametrize("unknown", [0.0, 0.5])
def test_pooled_equals_the_loop(stride: int, size: tuple[int, int], unknown: float) -> None:
    truth = random_truth(*size, unknown)
    expected = loop_pooled(truth, stride)
    torch.testing.assert_close(pooled(truth, stride), expected, atol=1e-6, rtol=0, equal_nan=True)
    assert (unknown > 0 and stride > 1) == bool(expected.isnan().any() and stride > 1)


def test_resized_moves_and_scales() -> None:
    truth = torch.zeros(2, 4, 6)
    truth[0], truth[1, :, 3:] = 6.0, -2.0
    truth[:, 0, 0] = math.nan
    small = resized(truth, (2, 12))
    assert small.shape == (2, 2, 12)
    assert torch.equal(small[0], torch.full((2, 12), 12.0))  # the unknown corner pixel is none of the nearest
    assert torch.equal(small[1, 0], torch.tensor([0.0] * 6 + [-1.0] * 6))


def test_resized_keeps_unknown_pixels_unknown() -> None:
    truth = random_truth(6, 8, 0.4, count=1)[0]
    large = resized(truth, (12, 16))
    assert torch.equal(large.isnan(), truth.isnan().repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_same_size_changes_nothing() -> None:
    truth = random_truth(7, 9, 0.0)
    assert torch.equal(resized(truth, (7, 9)), truth)


def test_mirrored_twice_is_the_same() -> None:
    truth = random_truth(5, 6, 0.0)
    once = mirrored(truth)
    assert torch.equal(once[:, 0, :, 0], -truth[:, 0, :, -1])
    assert torch.equal(once[:, 1, :, 0], truth[:, 1, :, -1])
    assert torch.equal(mirrored(once), truth)


def test_error_is_the_distance_in_pixels() -> None:
    truth = torch.zeros(1, 2, 8, 8)
    truth[:, 0], truth[:, 1] = 3.0, -4.0
    still = ScaledFlow(torch.zeros(1, 2, 2, 2), 4)
    assert torch.equal(end_point_errors(still, truth), torch.full((1, 2, 2), 5.0))
    assert end_point_error(still, truth) == 5.0


def test_unknown_cells_do_not_count() -> None:
    truth = random_truth(16, 24, 0.5)
    truth[0, :, :8] = math.nan
    predicted = ScaledFlow(torch.randn(2, 2, 4, 6, generator=torch.Generator().manual_seed(0)), 4)
    errors = end_point_errors(predicted, truth)
    assert errors[0, 0].isnan().all()
    torch.testing.assert_close(end_point_error(predicted, truth), errors[~errors.isnan()].mean())


@pytest.mark.parametrize("unknown", [0.5, 1.0])
def test_gradients_stay_finite(unknown: float) -> None:
    """Unknown cells, and a prediction that is exactly right, must not turn into NaN."""
    truth = random_truth(16, 16, unknown)
    flow = torch.nan_to_num(pooled(truth, 4)).requires_grad_()
    loss = end_point_error(ScaledFlow(flow, 4), truth)
    loss.backward()
    assert loss == 0
    assert flow.grad is not None
    assert flow.grad.isfinite().all()


def test_unknown_cells_pull_at_nothing() -> None:
    truth = torch.full((1, 2, 8, 8), math.nan)
    truth[..., :2, :2] = 1.0
    flow = torch.zeros(1, 2, 2, 2, requires_grad=True)
    end_point_error(ScaledFlow(flow, 4), truth).backward()
    assert flow.grad is not None
    assert flow.grad[0, 0, 0, 0] == pytest.approx(-math.sqrt(0.5))
    assert flow.grad.flatten(2)[..., 1:].abs().max() == 0


def test_finest_counts_most() -> None:
    truth = torch.zeros(1, 2, 16, 16)
    truth[:, 0] = 1.0
    strides = (16, 8, 4, 2)
    right = [ScaledFlow(pooled(truth, stride), stride) for stride in strides]
    for place, weight in enumerate((0.25, 0.25, 0.5, 1.0)):
        pyramid = list(right)
        pyramid[place] = ScaledFlow(torch.zeros_like(right[place].flow), strides[place])
        assert multi_scale_loss(pyramid, truth) == pytest.approx(weight)
