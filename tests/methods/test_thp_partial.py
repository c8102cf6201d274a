"""Partial updating: rows that are computed equal the masked computation of everything, which equals its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.registry import method_spec
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.flow import warp
from vodbench_methods.thp.bench import blobs, partial_savings
from vodbench_methods.thp.context import KeyFrameContext
from vodbench_methods.thp.masks import enlarged, update_mask, with_mask_gradient
from vodbench_methods.thp.partial import PartialExtractor

SIZES = [(64, 96), (77, 101)]  # the second is no multiple of any stride
DETECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("r-fcn", {}),
    "tiny, stride 16": ("r-fcn", {"tiny_stride": 16}),
    "conv4": ("faster-rcnn", {}),
    "basic blocks": ("r-fcn", {"backbone": "resnet18", "frozen_batch_norm": True}),
    "bottlenecks": ("r-fcn", {"backbone": "resnet50", "frozen_batch_norm": True, "map_dilation": 6}),
    "stride in 1x1": ("faster-rcnn", {"backbone": "resnet50", "frozen_batch_norm": True, "stride_in_1x1": True}),
    "groups": ("faster-rcnn", {"backbone": "resnext101_32x4d", "frozen_batch_norm": True}),
    "deformable": ("r-fcn", {"backbone": "resnet18", "frozen_batch_norm": True, "deformable": "dcn"}),
}


@torch.inference_mode(mode=False)
def detector_of(name: str) -> SingleFrameDetector:
    method, changes = DETECTORS[name]
    spec = method_spec(method)
    torch.manual_seed(0)
    detector = spec.build(spec.config.from_mapping({**spec.presets["tiny"], **changes}), 3)
    assert isinstance(detector, SingleFrameDetector)
    for module in detector.modules():  # statistics as after training: activations keep their size from layer to layer
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
        if name == "deformable" and hasattr(module, "offsets"):
            nn.init.normal_(module.offsets.weight, std=0.01)
    return detector.eval()


def frames(detector: SingleFrameDetector, height: int, width: int) -> tuple[Batch, Batch]:
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (2, height, width, 3), dtype=np.uint8)
    key, current = (Batch(detector._normalised(image[None]), ((height, width),), (), ()) for image in images)
    return key, current


def masks(height: int, width: int) -> dict[str, Tensor]:
    made = {
        "none": torch.zeros(height, width),
        "all": torch.ones(height, width),
        "random": torch.rand(height, width, generator=torch.Generator().manual_seed(1)).lt(0.4).float(),
        "blobs": torch.from_numpy(blobs(0.3, height, width)).float(),
        "one cell": torch.zeros(height, width),
        "corners": torch.zeros(height, width),
        "border": torch.ones(height, width),
    }
    made["one cell"][height // 2, width // 3] = 1
    made["corners"][:: height - 1, :: width - 1] = 1
    made["border"][1:-1, 1:-1] = 0
    return {name: mask[None, None] for name, mask in made.items()}


def prepared(name: str, height: int, width: int) -> tuple[PartialExtractor, Batch, Tensor, KeyFrameContext]:
    detector = detector_of(name)
    key, current = frames(detector, height, width)
    extractor = PartialExtractor(detector)
    key_map, kept = extractor.whole(key)
    flow = torch.randn(1, 2, *key_map.shape[2:], generator=torch.Generator().manual_seed(2)) * 1.5
    context = KeyFrameContext(kept, flow, detector.config.feature_stride, "exact")
    return extractor, current, warp(key_map, flow), context


# ---- what is computed is right


@torch.inference_mode()
@pytest.mark.parametrize("name", DETECTORS)
def test_the_whole_is_what_the_detector_extracts(name: str) -> None:
    detector = detector_of(name)
    key, _ = frames(detector, *SIZES[1])
    torch.testing.assert_close(PartialExtractor(detector).whole(key)[0], detector.extract(key))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DETECTORS)
def test_rows_equal_the_masked_computation(name: str, size: tuple[int, int]) -> None:
    extractor, current, propagated, context = prepared(name, *size)
    for kind, mask in masks(*propagated.shape[2:]).items():
        wanted = extractor.masked(current, mask, propagated, context)
        got = extractor.updated(current, mask, propagated, context)
        scale = float(wanted.abs().max())
        assert float((got - wanted).abs().max()) <= 1e-5 * scale, kind


@torch.inference_mode()
@pytest.mark.parametrize("name", DETECTORS)
def test_all_and_nothing(name: str) -> None:
    detector = detector_of(name)
    extractor, current, propagated, context = prepared(name, *SIZES[1])
    kinds = masks(*propagated.shape[2:])
    assert torch.equal(extractor.updated(current, kinds["none"], propagated, context), propagated)
    everything = extractor.updated(current, kinds["all"], propagated, context)
    own = detector.extract(current)
    assert float((everything - own).abs().max()) <= 1e-5 * float(own.abs().max())


@torch.inference_mode()
def test_the_masked_computation_is_the_papers() -> None:
    """F^(n) = U N^(n)(F^(n-1)) + (1 - U) W(F_k^(n)) at every layer of a network that is written out here."""
    detector = detector_of("tiny")
    extractor, current, propagated, context = prepared("tiny", *SIZES[0])
    key, _ = frames(detector, *SIZES[0])
    flow = context._flow
    net = detector.inference_backbone()
    reduction = detector.reduction
    mask = masks(*propagated.shape[2:])["random"]
    layers: list[tuple[Any, int]] = [(net.conv1, 2), (net.conv2, 4), (net.conv3, 4), (net.conv4, 4), (net.conv5, 4)]
    layers.append((lambda x: F.relu(reduction(x)), 4))
    of_key, ours = key.tensor, current.tensor
    for layer, stride in layers:
        of_key, ours = layer(of_key), layer(ours)
        ratio = 4 // stride
        u = F.interpolate(mask, scale_factor=ratio, mode="nearest")
        moved = warp(of_key, F.interpolate(flow, scale_factor=ratio, mode="nearest") * ratio)
        ours = u * ours + (1 - u) * moved
    torch.testing.assert_close(extractor.masked(current, mask, propagated, context), ours)


@torch.inference_mode()
def test_an_update_does_not_depend_on_what_was_updated_before() -> None:
    """Tables, matrices and contexts that are kept from frame to frame must not leak."""
    extractor, current, propagated, context = prepared("bottlenecks", *SIZES[0])
    kinds = masks(*propagated.shape[2:])
    first = extractor.updated(current, kinds["blobs"], propagated, context)
    extractor.updated(current, kinds["random"], propagated, context)
    assert torch.equal(extractor.updated(current, kinds["blobs"], propagated, context), first)


@torch.inference_mode()
@pytest.mark.parametrize("part", ["backbone.conv4.0.weight", "reduction.weight"])
def test_new_weights_are_seen(part: str) -> None:
    detector = detector_of("tiny")
    extractor, (key, current) = PartialExtractor(detector), frames(detector, *SIZES[0])

    def updated() -> tuple[Tensor, Tensor]:
        key_map, kept = extractor.whole(key)
        context = KeyFrameContext(kept, torch.zeros(1, 2, *key_map.shape[2:]), 4, "exact")
        mask = masks(*key_map.shape[2:])["blobs"]
        return extractor.updated(current, mask, key_map, context), extractor.masked(current, mask, key_map, context)

    before, _ = updated()
    with torch.inference_mode(mode=False), torch.no_grad():  # as an optimiser's step
        dict(detector.named_parameters())[part].mul_(1.5)
    after, wanted = updated()
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, wanted)


# ---- what is not asked for is not computed


@torch.inference_mode()
def test_inactive_positions_are_not_read() -> None:
    """Far from the updated cell the image may be anything: with NaN there, nothing of the result changes."""
    extractor, current, propagated, context = prepared("tiny", 64, 96)
    mask = masks(*propagated.shape[2:])["one cell"]
    ((_, _, y, x),) = mask.nonzero().tolist()
    wanted = extractor.updated(current, mask, propagated, context)
    spoiled = torch.full_like(current.tensor, torch.nan)
    near = (..., slice(4 * y - 8, 4 * y + 12), slice(4 * x - 8, 4 * x + 12))
    spoiled[near] = current.tensor[near]
    spoiled_batch = Batch(spoiled, current.sizes, (), ())
    assert torch.equal(extractor.updated(spoiled_batch, mask, propagated, context), wanted)


def test_ideal_savings_follow_the_share() -> None:
    detector = detector_of("bottlenecks")
    random = np.random.default_rng(0)
    images = list(random.integers(0, 255, (2, 64, 96, 3), dtype=np.uint8))
    found = partial_savings(detector, images, shares=(0.25, 0.5), repeats=1)
    for saving in found.savings:
        assert saving.ideal == pytest.approx(1 - saving.share, abs=0.02)
        assert saving.difference < 1e-5


def test_multiply_adds_are_those_of_the_layers() -> None:
    detector = detector_of("tiny")
    _, current = frames(detector, 64, 96)
    macs: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        macs.append(output.shape[2] * output.shape[3] * module.weight.numel())

    convolutions = [m for m in (detector.backbone, detector.reduction) for m in m.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions:
        convolution.register_forward_hook(count)
    detector.extract(current)
    assert PartialExtractor(detector).multiply_adds(current, torch.ones(16, 24, dtype=torch.bool)) == sum(macs)


# ---- masks


def test_straight_through_gradient() -> None:
    """dU / dQ = -1 where |Q| <= 1, else 0: by hand."""
    logits = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]).view(1, 1, 1, 7).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).view(1, 1, 1, 7)
    mask = update_mask(logits)
    assert mask.flatten().tolist() == [1, 1, 1, 1, 0, 0, 0]
    (mask * weights).sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [0, -2, -3, -4, -5, -6, 0]


def test_the_masks_gradient_is_what_computing_anew_would_change() -> None:
    torch.manual_seed(0)
    maps, anew, propagated, probe = torch.randn(4, 2, 3, 4, 5).unbind()
    logits = torch.linspace(-1.5, 1.5, 40).view(2, 1, 4, 5).requires_grad_()
    mask = update_mask(logits)
    got = with_mask_gradient(maps, mask, anew, propagated)
    assert torch.equal(got, maps)
    (got * probe).sum().backward()
    assert logits.grad is not None
    for image, y, x in ((0, 0, 0), (0, 2, 1), (0, 3, 4), (1, 0, 0), (1, 1, 3), (1, 3, 4)):
        cell = (image, slice(None), y, x)
        change = float(((anew[cell] - propagated[cell]) * probe[cell]).sum())
        passes = abs(float(logits[image, 0, y, x])) <= 1
        assert float(logits.grad[image, 0, y, x]) == pytest.approx(-change if passes else 0.0, abs=1e-6)


@pytest.mark.parametrize(("ratio", "height", "width"), [(2, 7, 9), (4, 14, 18), (1, 4, 5)])
def test_enlarged_is_nearest_neighbour(ratio: int, height: int, width: int) -> None:
    cells = torch.arange(20).view(4, 5)
    got = enlarged(cells, ratio, height, width)
    assert got.shape == (height, width)
    for y in range(height):
        for x in range(width):
            assert got[y, x] == cells[y // ratio, x // ratio]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_blobs_cover_their_share(share: float) -> None:
    mask = blobs(share, 38, 63)
    assert mask.sum() == round(share * 38 * 63)
    neighbours = mask[1:] == mask[:-1]
    assert neighbours.mean() > 0.85, "connected areas, not noise"
