"""The record of motion and the flow it gives: by hand, by brute force, and against the pictures that were rendered."""

from __future__ import annotations

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vodbench.errors import UserError
from vodbench.transforms import flip_flow, flip_image
from vodbench_datasets.generated import GeneratorConfig, scene
from vodbench_datasets.generated.motion import pose
from vodbench_datasets.generated.scene import Scene, draw_scene, render
from vodbench_datasets.motion import UNKNOWN, Motion, flow_between

CONFIG = GeneratorConfig(frames=12, tracks=(2, 3), noise=0)
PAIRS = [(0, 4, 7), (1, 2, 9), (2, 8, 5), (3, 0, 11), (4, 6, 7), (5, 3, 10)]  # (snippet, frame a, frame b)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures before blur (noise is off in the configuration)."""
    monkeypatch.setattr(scene, "_blurred", lambda scene, frame, picture, shake: picture)


def shifted(dx: float, dy: float) -> np.ndarray:
    return np.array([[1, 0, dx], [0, 1, dy]], np.float32)


def square_on_a_background(x: int, y: int, drift: int = 0) -> Motion:
    """6 x 8 pixels; a square of 2 x 2 at (x, y), on a background that drifted to the right."""
    layers = np.zeros((6, 8), np.uint8)
    layers[y : y + 2, x : x + 2] = 1
    return Motion(layers, np.stack([shifted(drift, 0), shifted(x, y)]))


def test_flow_worked_out_by_hand() -> None:
    flow = flow_between(square_on_a_background(1, 2), square_on_a_background(4, 3, drift=1))
    expected = np.tile(np.array([1.0, 0.0]), (6, 8, 1))
    expected[2:4, 1:3] = (3, 1)
    expected[:, 7] = np.nan  # the background leaves on the right
    expected[3:5, 3:5] = np.nan  # and is hidden where the square comes to lie
    assert flow.dtype == np.float32
    np.testing.assert_array_equal(flow, expected)


def test_what_is_in_front_is_unknown_in_either_frame() -> None:
    free, covered = square_on_a_background(1, 2), square_on_a_background(1, 2)
    covered.layers[:, :2] = UNKNOWN
    for flow in (flow_between(free, covered), flow_between(covered, free)):
        assert np.isnan(flow[:, :2]).all()
        assert (flow[:, 2:] == 0).all()


def test_a_layer_that_one_frame_lacks_is_unknown() -> None:
    both = square_on_a_background(1, 2)
    alone = Motion(both.layers, both.placements[:1])
    assert np.isnan(flow_between(both, alone)[2:4, 1:3]).all()
    assert np.isfinite(flow_between(both, alone)).all(axis=2).sum() == 48 - 4


def test_nothing_moves_from_a_frame_to_itself() -> None:
    unknown = 0
    for number, frame, _ in PAIRS:
        motion = render(draw_scene(CONFIG, 0, number), frame).motion
        flow = flow_between(motion, motion)
        np.testing.assert_allclose(flow[motion.layers != UNKNOWN], 0, atol=1e-9)
        assert np.isnan(flow[motion.layers == UNKNOWN]).all()
        unknown += int((motion.layers == UNKNOWN).sum())
    assert unknown > 100  # some of these frames have something in front


@pytest.mark.parametrize(("number", "a", "b"), PAIRS)
def test_points_of_objects_go_where_their_poses_say(number: int, a: int, b: int) -> None:
    """Every pixel taken to the object's own axes by its pose in frame a, and back by its pose in frame b."""
    drawn = draw_scene(CONFIG, 0, number)
    motion = render(drawn, a).motion
    flow = flow_between(motion, render(drawn, b).motion)
    checked = 0
    for y, x in np.argwhere(np.isfinite(flow[..., 0]))[::7]:
        there = where_it_goes(drawn, int(motion.layers[y, x]), np.array([x, y], float), a, b)
        np.testing.assert_allclose(flow[y, x], there - (x, y), atol=2e-3)
        checked += 1
    assert checked > 1000


def where_it_goes(drawn: Scene, layer: int, point: np.ndarray, a: int, b: int) -> np.ndarray:
    shakes = [drawn.shakes[f] * drawn.strengths["camera_shake"][:, f].max() for f in (a, b)]
    if layer == 0:
        return point + (shakes[1] - drawn.drift[b]) - (shakes[0] - drawn.drift[a])
    first, second = (
        pose(drawn.paths[layer - 1], drawn.strengths, layer - 1, f, CONFIG.size, shake)
        for f, shake in zip((a, b), shakes, strict=True)
    )
    turned = (complex(*point) - complex(*first.centre)) * np.exp(-1j * first.angle)
    own = complex(turned.real / first.foreshortening, turned.imag) / first.radius  # in radii, along its own axes
    moved = complex(own.real * second.foreshortening, own.imag) * second.radius * np.exp(1j * second.angle)
    end = moved + complex(*second.centre)
    return np.array([end.real, end.imag])


@pytest.mark.usefixtures("clean")
def test_warping_by_the_flow_gives_the_other_picture_back() -> None:
    """On the clean pictures; half a pixel of error in the flow would be seen."""
    right, wrong = [], []
    for number, a, b in PAIRS:
        drawn = draw_scene(CONFIG, 0, number)
        first, second = render(drawn, a), render(drawn, b)
        flow = flow_between(first.motion, second.motion)
        inner = away_from_outlines(first.motion) & np.isfinite(flow[..., 0])
        assert inner.mean() > 0.3
        right.append(difference(first.image, second.image, flow, inner))
        wrong.append(difference(first.image, second.image, flow + np.float32(0.5), inner))
    assert np.mean(right) < 1.5  # grey levels; interpolated once in each picture and once more here
    assert all(w > 1.5 * r for r, w in zip(right, wrong, strict=True)), (right, wrong)


def away_from_outlines(motion: Motion) -> np.ndarray:
    """Pixels whose neighbourhood is of one layer: at soft edges two of them are mixed."""
    ones = np.ones((5, 5), np.uint8)
    return np.asarray(cv2.erode(motion.layers, ones) == cv2.dilate(motion.layers, ones))


def difference(first: np.ndarray, second: np.ndarray, flow: np.ndarray, where: np.ndarray) -> float:
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    warped = cv2.remap(second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.abs(warped.astype(int) - first)[where].mean())


@pytest.mark.usefixtures("clean")
def test_mirrored_flow_belongs_to_the_mirrored_pictures() -> None:
    drawn = draw_scene(CONFIG, 0, 1)
    first, second = render(drawn, 2), render(drawn, 9)
    flow = flow_between(first.motion, second.motion)
    inner = away_from_outlines(first.motion) & np.isfinite(flow[..., 0])
    pictures = flip_image(first.image), flip_image(second.image)
    straight = difference(first.image, second.image, flow, inner)
    assert difference(*pictures, flip_flow(flow), inner[:, ::-1]) == pytest.approx(straight, abs=0.05)
    assert difference(*pictures, flow[:, ::-1], inner[:, ::-1]) > 3 * straight  # without the change of sign
    np.testing.assert_array_equal(flip_flow(flip_flow(flow)), flow)


def test_layers_are_the_masks_of_what_is_seen() -> None:
    for number, frame, _ in PAIRS:
        rendered = render(draw_scene(CONFIG, 0, number), frame)
        for mask, track in zip(rendered.masks, rendered.track_ids, strict=True):
            np.testing.assert_array_equal(rendered.motion.layers == track + 1, mask)


# ---- the record ----


def test_a_record_round_trip_is_bit_exact_and_small() -> None:
    for number, frame, _ in PAIRS:
        motion = render(draw_scene(CONFIG, 0, number), frame).motion
        record = motion.encode()
        back = Motion.decode(record, "here")
        assert back.layers.tobytes() == motion.layers.tobytes()
        assert back.placements.dtype == np.float32
        assert back.placements.tobytes() == motion.placements.tobytes()
        assert len(record) < 1000


def test_a_frame_that_is_not_square() -> None:
    motion = square_on_a_background(3, 1)
    assert Motion.decode(motion.encode(), "here").layers.shape == (6, 8)


GOOD = square_on_a_background(1, 2)
FLAT = replace(GOOD, placements=np.zeros((2, 2, 3), np.float32))
LOST = replace(GOOD, placements=np.full((2, 2, 3), np.nan, np.float32))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "do not begin as one"),
        (b"\x89PNG" + GOOD.encode()[4:], "do not begin as one"),
        (GOOD.encode()[:20], "ends within its 2 layers"),
        (GOOD.encode()[:-9], "does not have 48 pixels"),
        (GOOD.encode()[:57] + b"nonsense", "incorrect header check"),
        (GOOD.encode()[:57] + zlib.compress(bytes(10**6)), "does not have 48 pixels"),
        (FLAT.encode(), "a layer has no place"),
        (LOST.encode(), "a layer has no place"),
    ],
)
def test_a_damaged_record_is_named(record: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"'snippet, frame 3' is no record of motion .*{message}.*generate the video"):
        Motion.decode(record, "snippet, frame 3")
