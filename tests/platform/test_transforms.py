"""Resizing and flipping, with boxes there and back."""

from __future__ import annotations

import numpy as np
import pytest

from vodbench.transforms import flip_boxes, flip_flow, flip_image, resize_shorter, resized_size


def random_boxes(rng: np.random.Generator, width: int, height: int, count: int = 50) -> np.ndarray:
    x = np.sort(rng.uniform(0, width - 1, (count, 2)), axis=1)
    y = np.sort(rng.uniform(0, height - 1, (count, 2)), axis=1)
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("width", "height", "short", "longest", "expected"),
    [
        (1280, 720, 600, 1000, (1000, 562)),  # the longer side binds
        (500, 375, 600, 1000, (800, 600)),  # the shorter side binds
        (720, 1280, 600, 1000, (562, 1000)),
        (2000, 20, 600, 1000, (1000, 10)),
        (5000, 1, 600, 1000, (1000, 1)),  # never below one pixel
    ],
)
def test_sizes(width: int, height: int, short: int, longest: int, expected: tuple[int, int]) -> None:
    assert resized_size(width, height, short, longest) == expected


def test_the_longer_side_never_passes_its_bound() -> None:
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 3000, (500, 2)):
        new_width, new_height = resized_size(int(width), int(height), 600, 1000)
        assert max(new_width, new_height) <= 1000
        assert min(new_width, new_height) <= 600
        assert max(new_width, new_height) == 1000 or min(new_width, new_height) == 600


def test_scales_are_those_of_the_pixels_really_made() -> None:
    resized = resize_shorter(np.zeros((97, 131, 3), np.uint8), 60, 100)
    assert resized.image.shape == (60, 81, 3)
    assert (resized.scale_x, resized.scale_y) == (81 / 131, 60 / 97)


def test_an_image_of_the_right_size_is_handed_on_untouched() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    resized = resize_shorter(image, 60, 100)
    assert resized.image is image
    assert (resized.scale_x, resized.scale_y) == (1.0, 1.0)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_come_back_to_original_pixels(flip: bool) -> None:
    rng = np.random.default_rng(1)
    for width, height in rng.integers(32, 2000, (40, 2)):
        boxes = random_boxes(rng, int(width), int(height))
        resized = resize_shorter(np.zeros((height, width, 3), np.uint8), 600, 1000)
        there = resized.to_resized(flip_boxes(boxes, width) if flip else boxes)
        back = resized.to_original(there)
        back = flip_boxes(back, width) if flip else back
        assert back.dtype == np.float32
        # Two roundings to float32 on the way (four with flips), each at most half a unit in the last place of ``width``
        # or ``height``.
        ulp = np.spacing(np.float32(max(width, height)))
        np.testing.assert_allclose(back, boxes, rtol=0, atol=float(2 * ulp))


def test_flipping_annotated_boxes_twice_is_the_identity() -> None:
    boxes = np.array([[0, 5, 9, 12], [90, 1, 99, 2]], np.float32)
    flipped = flip_boxes(boxes, 100)
    np.testing.assert_array_equal(flipped, [[90, 5, 99, 12], [0, 1, 9, 2]])
    np.testing.assert_array_equal(flip_boxes(flipped, 100), boxes)
    assert flip_boxes(np.zeros((0, 4), np.float32), 100).shape == (0, 4)


def test_a_flipped_box_holds_the_flipped_pixels() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:9, 2:7] = 255  # inclusive box (2, 4, 6, 8)
    x1, y1, x2, y2 = flip_boxes(np.array([[2, 4, 6, 8]], np.float32), 30)[0].astype(int)
    flipped = flip_image(image)
    assert flipped.flags.c_contiguous
    assert (flipped[y1 : y2 + 1, x1 : x2 + 1] == 255).all()
    assert (flipped == 255).sum() == (image == 255).sum()


def test_a_resized_box_still_frames_the_object() -> None:
    image = np.zeros((100, 150, 3), np.uint8)
    image[40:60, 30:90] = 255
    resized = resize_shorter(image, 200, 1000)
    ys, xs = np.nonzero(resized.image[..., 0] > 127)
    box = resized.to_resized(np.array([[30, 40, 90, 60]], np.float32))[0]  # edges, not inclusive pixels
    np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1)


def test_flow_in_the_mirror() -> None:
    """A pixel and where it goes, both mirrored: column x becomes ``width - 1 - x``."""
    flow = np.random.default_rng(0).normal(0, 5, (7, 11, 2)).astype(np.float32)
    flow[2, 3] = np.nan
    flipped = flip_flow(flow)
    assert flipped.dtype == np.float32
    assert flipped.flags.c_contiguous
    for y, x in np.ndindex(7, 11):
        there = x + flow[y, x, 0], y + flow[y, x, 1]
        mirrored = (10 - x) + flipped[y, 10 - x, 0], y + flipped[y, 10 - x, 1]
        np.testing.assert_allclose(mirrored, (10 - there[0], there[1]), atol=1e-5)
