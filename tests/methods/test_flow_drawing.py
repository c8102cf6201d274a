"""Pictures of flow and masks."""

from __future__ import annotations

import numpy as np
import pytest

from vodbench_methods.flow.drawing import draw_flow, draw_mask


def drawn(x: float, y: float, largest: float = 1.0) -> list[int]:
    flow = np.array([x, y], np.float32)[:, None, None]
    return [int(v) for v in draw_flow(flow, largest)[0, 0]]


# Worked out by hand from the benchmark's definition: 55 colours; angle a = atan2(-y, -x) / pi, colour (a + 1) / 2 * 54.
@pytest.mark.parametrize(
    ("flow", "colour"),
    [
        ((1, 0), [255, 0, 0]),  # a = -1: colour 0
        ((0, 1), [255, 229, 0]),  # a = -1/2: 13.5, between 13 (green 221) and 14 (green 238)
        ((-1, 1e-9), [0, 208, 255]),  # a = 0: 27, cyan's third of 11 steps towards blue is 255 - 46
        ((0, -1), [88, 0, 255]),  # a = 1/2: 40.5, blue's fifth step (red 78) and sixth (red 98)
        ((0, 0), [255, 255, 255]),
    ],
)
def test_wheel(flow: tuple[float, float], colour: list[int]) -> None:
    np.testing.assert_allclose(drawn(*flow), colour, atol=1)


def test_length_is_saturation() -> None:
    assert drawn(0.5, 0) == [255, 127, 127]
    assert drawn(2, 0) == [191, 0, 0]  # beyond the largest: darkened


def test_longest_of_the_picture_is_in_full_colour() -> None:
    flow = np.zeros((2, 1, 2), np.float32)
    flow[0, 0] = [3, 6]
    np.testing.assert_array_equal(draw_flow(flow)[0], [[255, 127, 127], [255, 0, 0]])
    np.testing.assert_array_equal(draw_flow(flow * 10), draw_flow(flow))


def test_nothing_moves() -> None:
    assert (draw_flow(np.zeros((2, 3, 4), np.float32)) == 255).all()


def test_unknown_is_black() -> None:
    flow = np.ones((2, 2, 2), np.float32)
    flow[0, 0, 1] = np.nan
    flow[1, 1, 0] = np.inf
    picture = draw_flow(flow)
    assert (picture[0, 1] == 0).all()
    assert (picture[1, 0] == 0).all()
    assert picture[0, 0].any()


def test_directions_run_round_the_wheel_with_the_originals_one_seam() -> None:
    """The 55th colour is not blended into the first, as in the benchmark's own code."""
    angles = np.linspace(-np.pi, np.pi, 3601)
    picture = draw_flow(np.stack((np.cos(angles), np.sin(angles)))[:, None].astype(np.float32), 1.01).astype(int)
    steps = abs(np.diff(picture[0], axis=0)).max(axis=1)
    assert sorted(steps)[-2] <= 2
    assert steps.max() == 43


def test_mask_covers_its_cells() -> None:
    image = np.full((5, 8, 3), 100, np.uint8)
    mask = np.array([[True, False], [False, False]])
    picture = draw_mask(image, mask, colour=(200, 0, 100), opacity=0.5)
    assert (picture[:3, :4] == [150, 50, 100]).all()  # row 2 of 5 lies in the upper half
    assert (picture[3:] == 100).all()
    assert (picture[:, 4:] == 100).all()
    assert (image == 100).all()


def test_an_empty_mask_leaves_the_image() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(draw_mask(image, np.zeros((2, 2), bool)), image)
