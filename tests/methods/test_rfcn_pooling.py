"""Position-sensitive pooling against golden numbers, torchvision, a plain reading of the definitions, and its laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from vodbench_methods.rfcn.deformable import deformable_ps_roi_pool
from vodbench_methods.rfcn.position_sensitive import ps_roi_align, ps_roi_pool

Pooling: TypeAlias = Callable[[Tensor, list[Tensor], int, int], Tensor]

STRIDE = 4
HEIGHT, WIDTH = 11, 13  # of the maps: 44 x 52 px
ALIGN: Pooling = partial(ps_roi_align, sampling=2)
FIXED: Pooling = partial(deformable_ps_roi_pool, offsets=None, offset_scale=0.1, sampling=4)
POOLINGS = pytest.mark.parametrize("pooling", [ALIGN, ps_roi_pool, FIXED], ids=["align", "original", "deformable"])

# Inside; thinner than a cell; of no extent; over the right and lower edge; left of the map; all of it; below it.
ODD_BOXES = torch.tensor(
    [
        [3.3, 5.1, 20.7, 30.2],
        [8.0, 8.0, 9.0, 30.0],
        [12.0, 7.0, 12.0, 7.0],
        [40.0, 30.0, 75.0, 60.0],
        [-60.0, 2.0, -26.0, 20.0],
        [0.0, 0.0, 51.0, 43.0],
        [3.0, 90.0, 20.0, 120.0],
    ]
)


def maps_of(outputs: int, size: int, *, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, outputs * size**2, HEIGHT, WIDTH, generator=generator, requires_grad=requires_grad)


def random_boxes(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    corner = torch.rand(count, 2, generator=generator) * 40 - 4
    return torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * 30), dim=1)


# ---- golden numbers: 7 x 7 bins at stride 16, the RoIs of two images in turn


@pytest.fixture
def published(golden: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(golden / "position_sensitive.npz").items()}


def by_image(rois: Tensor) -> tuple[list[Tensor], Tensor]:
    """Boxes an image, and the row of ``rois`` (image, x1, y1, x2, y2) that each was."""
    rows = [torch.where(rois[:, 0] == image)[0] for image in range(2)]
    return [rois[r, 1:] for r in rows], torch.cat(rows)


def test_original_pooling_equals_the_published_operator(published: dict[str, Tensor]) -> None:
    boxes, rows = by_image(published["rois"])
    torch.testing.assert_close(
        ps_roi_pool(published["x"], boxes, 7, 16), published["pooled"][rows], atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("offsets", "expected"), [(None, "fixed"), ("offsets", "moved"), ("offsets_by_class", "moved_by_class")]
)
def test_deformable_pooling_equals_the_published_operator(
    published: dict[str, Tensor], offsets: str | None, expected: str
) -> None:
    boxes, rows = by_image(published["rois"])
    given = None if offsets is None else published[offsets][rows]
    pooled = deformable_ps_roi_pool(published["x"], boxes, 7, 16, offsets=given, offset_scale=0.1, sampling=4)
    torch.testing.assert_close(pooled, published[expected][rows], atol=1e-5, rtol=1e-5)


# ---- align


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampling", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3])
def test_align_equals_torchvision(size: int, sampling: int, training: bool) -> None:
    maps = maps_of(4, size, requires_grad=training)
    boxes = [ODD_BOXES, random_boxes()]
    ours = ps_roi_align(maps, boxes, size, STRIDE, sampling=sampling)
    reference = maps.detach().clone().requires_grad_()
    theirs = torchvision.ops.ps_roi_align(reference, boxes, size, 1 / STRIDE, sampling)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    if training:
        (ours**2).sum().backward()
        (theirs**2).sum().backward()
        assert maps.grad is not None
        torch.testing.assert_close(maps.grad, reference.grad, rtol=1e-5, atol=1e-5)


def test_inference_avoids_the_slow_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, boxes = maps_of(4, 3), [ODD_BOXES, random_boxes()]
    expected = torchvision.ops.ps_roi_align(maps, boxes, 3, 1 / STRIDE, 2)
    monkeypatch.setattr(torchvision.ops, "ps_roi_align", None)
    torch.testing.assert_close(ps_roi_align(maps, boxes, 3, STRIDE, sampling=2), expected, rtol=1e-5, atol=1e-5)


# ---- the original pooling


def cell_by_cell(maps: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Original pooling of one image as its definition reads."""
    outputs = len(maps) // size**2
    pooled = torch.zeros(len(boxes), outputs, size, size)
    for n, box in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (math.floor(side + 0.5) for side in box)
        left, top = x1 / STRIDE, y1 / STRIDE
        width, height = max((x2 + 1) / STRIDE - left, 0.1), max((y2 + 1) / STRIDE - top, 0.1)
        for i in range(size):
            for j in range(size):
                rows = range(math.floor(top + i * height / size), math.ceil(top + (i + 1) * height / size))
                columns = range(math.floor(left + j * width / size), math.ceil(left + (j + 1) * width / size))
                cells = [(y, x) for y in rows for x in columns if 0 <= y < HEIGHT and 0 <= x < WIDTH]
                for c in range(outputs):
                    channel = maps[(c * size + i) * size + j]
                    if cells:
                        pooled[n, c, i, j] = sum(float(channel[y, x]) for y, x in cells) / len(cells)
    return pooled


@pytest.mark.parametrize("size", [1, 2, 4])  # powers of two: bin edges are exact in float32 and here
def test_original_pooling_equals_its_definition(size: int) -> None:
    maps, boxes = maps_of(2, size), [ODD_BOXES, random_boxes()]
    expected = torch.cat([cell_by_cell(image, own, size) for image, own in zip(maps, boxes, strict=True)])
    torch.testing.assert_close(ps_roi_pool(maps, boxes, size, STRIDE), expected, atol=1e-5, rtol=1e-5)


def test_original_pooling_keeps_small_values_beside_large_ones() -> None:
    """Sums over the whole map must not drown a bin's mean."""
    maps = torch.full((1, 1, 40, 60), 1e4)
    maps[..., 30:, 50:] = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    pooled = ps_roi_pool(maps, [torch.tensor([[200.0, 120.0, 239.0, 159.0]])], 1, STRIDE)
    torch.testing.assert_close(pooled.squeeze(), maps[..., 30:, 50:].mean(), atol=1e-5, rtol=0)


# ---- deformable pooling


def test_moved_bins_see_what_a_shifted_map_shows() -> None:
    """All bins one cell right and two down; only RoIs that stay within the map."""
    maps = maps_of(2, 3)
    boxes = [torch.tensor([[8.0, 8.0, 27.0, 19.0], [4.0, 4.0, 11.0, 23.0]]), torch.tensor([[12.0, 4.0, 31.0, 27.0]])]
    every = torch.cat(boxes)
    cells = (every[:, 2:] + 1 - every[:, :2]) / STRIDE
    offsets = (torch.tensor([1.0, 2.0]) / cells)[:, :, None, None].expand(-1, -1, 3, 3)
    moved = deformable_ps_roi_pool(maps, boxes, 3, STRIDE, offsets=offsets, offset_scale=1.0, sampling=4)
    torch.testing.assert_close(moved, FIXED(maps.roll((-2, -1), dims=(2, 3)), boxes, 3, STRIDE), atol=1e-5, rtol=1e-4)


def test_offsets_of_a_class_move_that_class_alone() -> None:
    maps, boxes = maps_of(4, 3), [ODD_BOXES[:1], random_boxes(1)]
    offsets = torch.zeros(2, 2 * 4, 3, 3)
    offsets[:, 4:6] = 1.0  # x and y of the third class
    moved = deformable_ps_roi_pool(maps, boxes, 3, STRIDE, offsets=offsets, offset_scale=0.1, sampling=4)
    changed = (moved - FIXED(maps, boxes, 3, STRIDE)).abs().amax(dim=(0, 2, 3))
    assert (changed > 1e-3).tolist() == [False, False, True, False]
    torch.testing.assert_close(changed[[0, 1, 3]], torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("parts", [1, 2])
def test_deformable_gradients(parts: int) -> None:
    """With respect to maps and offsets, against finite differences."""
    generator = torch.Generator().manual_seed(7)
    maps = torch.randn(2, 2 * 4, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    offsets = torch.randn(3, 2 * parts, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[3.0, 2.0, 14.0, 15.0]]), torch.tensor([[0.0, 5.0, 9.0, 11.0], [8.0, 8.0, 30.0, 30.0]])]

    def pooled(maps: Tensor, offsets: Tensor) -> Tensor:
        return deformable_ps_roi_pool(maps, boxes, 2, STRIDE, offsets=offsets, offset_scale=0.1, sampling=2)

    assert torch.autograd.gradcheck(pooled, (maps, offsets))


def test_original_gradients() -> None:
    maps = maps_of(1, 2)[..., :5, :6].double().requires_grad_()
    boxes = [ODD_BOXES, random_boxes(3)]
    assert torch.autograd.gradcheck(lambda maps: ps_roi_pool(maps, boxes, 2, STRIDE), (maps,))


# ---- all of them


@POOLINGS
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_pools_as_its_images_do(pooling: Pooling, training: bool) -> None:
    maps, boxes = maps_of(3, 3, requires_grad=training), [ODD_BOXES, random_boxes()]
    alone = [pooling(maps[i : i + 1], [boxes[i]], 3, STRIDE) for i in range(2)]
    torch.testing.assert_close(pooling(maps, boxes, 3, STRIDE), torch.cat(alone))


@POOLINGS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (3, 0)])
def test_images_without_rois(pooling: Pooling, counts: tuple[int, int], training: bool) -> None:
    maps = maps_of(3, 3, requires_grad=training)
    pooled = pooling(maps, [random_boxes(count) for count in counts], 3, STRIDE)
    assert pooled.shape == (sum(counts), 3, 3, 3)
    if training:
        pooled.sum().backward()
        assert maps.grad is not None
        assert [bool(g.any()) for g in maps.grad] == [count > 0 for count in counts]


@POOLINGS
def test_a_roi_outside_the_map_is_zero(pooling: Pooling) -> None:
    outside = torch.tensor([[-60.0, 2.0, -26.0, 20.0], [3.0, 90.0, 20.0, 120.0], [70.0, -90.0, 90.0, -60.0]])
    assert not pooling(maps_of(3, 3), [outside, outside], 3, STRIDE).any()


@POOLINGS
def test_each_bin_reads_its_own_channel(pooling: Pooling) -> None:
    """Maps that hold their channel's number give it back, for RoIs within the map."""
    maps = torch.arange(2 * 9.0)[None, :, None, None].expand(1, -1, HEIGHT, WIDTH).contiguous()
    pooled = pooling(maps, [torch.tensor([[6.0, 9.0, 30.0, 33.0]])], 3, STRIDE)
    torch.testing.assert_close(pooled[0], torch.arange(2 * 9.0).view(2, 3, 3), atol=1e-5, rtol=1e-6)


@POOLINGS
@pytest.mark.parametrize("training", [True, False])
def test_the_layout_in_memory_does_not_matter(pooling: Pooling, training: bool) -> None:
    maps, boxes = maps_of(3, 3, requires_grad=training), [ODD_BOXES, random_boxes()]
    other = maps.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooling(other, boxes, 3, STRIDE), pooling(maps, boxes, 3, STRIDE), rtol=1e-5, atol=1e-6)


@POOLINGS
def test_maps_of_one_cell(pooling: Pooling) -> None:
    maps = torch.full((1, 9, 1, 1), 2.0)
    pooled = pooling(maps, [torch.tensor([[0.0, 0.0, 3.0, 3.0]])], 3, STRIDE)
    torch.testing.assert_close(pooled, torch.full((1, 1, 3, 3), 2.0))
