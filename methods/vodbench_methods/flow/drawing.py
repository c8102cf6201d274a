"""Flow and masks as pictures: the colour wheel of the Middlebury benchmark (Baker et al. 2011)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vodbench.spec import Floats, Image
from vodbench_methods.flow.network import FlowOutput

DRAWN_MOTION = 4.0  # cells, in full colour: the same in all frames of a video

# Steps from red to yellow, green, cyan, blue, magenta and back; more where the eye tells colours apart better.
_ARCS = (15, 6, 4, 11, 13, 6)
_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))


def draw_flow(flow: Floats, largest: float | None = None) -> Image:
    """(h, w, 3) uint8 RGB: direction as hue (right is red, down is yellow), length as saturation, no flow white.

    flow: (2, h, w), x before y, in any unit; unknown (not finite) is black. ``largest`` is the length drawn in full
    colour, by default the longest of the picture; longer ones are darkened.
    """
    known = np.isfinite(flow[0]) & np.isfinite(flow[1])
    x, y = np.where(known, flow, 0.0).astype(np.float64)
    length = np.hypot(x, y)
    full = length.max(initial=0.0) if largest is None else largest
    radius = (length / full if full > 0 else np.zeros_like(length))[..., None]
    hue = _wheel_colours(np.arctan2(-y, -x) / (2 * np.pi) + 0.5)
    colours = np.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    picture: Image = np.floor(255 * np.where(known[..., None], colours, 0.0)).astype(np.uint8)
    return picture


def flow_picture(output: FlowOutput | None, feature_map: Tensor) -> Image:
    """``draw_flow`` of one frame's flow to its key frame; no flow (None: it is the key frame) is white."""
    if output is None:
        return draw_flow(np.zeros((2, *feature_map.shape[2:]), np.float32))
    return draw_flow(output.flow[0].float().cpu().numpy(), DRAWN_MOTION)


def draw_mask(
    image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int] = (255, 64, 0), opacity: float = 0.4
) -> Image:
    """``image`` (H, W, 3) with ``colour`` over the cells where ``mask`` (h, w) is true; cells become rectangles."""
    height, width = image.shape[:2]
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    share = opacity * mask[np.ix_(rows, columns)].astype(bool)[..., None]
    covered: Image = np.rint((1 - share) * image + share * np.array(colour)).astype(np.uint8)
    return covered


def _wheel_colours(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) in 0..1 for angles in turns, 0..1."""
    wheel = _wheel()
    position = turn * (len(wheel) - 1)
    low = np.floor(position).astype(int)
    share = (position - low)[..., None]
    colours: NDArray[np.float64] = (1 - share) * wheel[low] + share * wheel[(low + 1) % len(wheel)]
    return colours


@cache
def _wheel() -> NDArray[np.float64]:
    """(55, 3) colours in 0..1; the original keeps whole 255ths, each arc counted from where it starts."""
    arcs = []
    for start, end, steps in zip(_CORNERS, _CORNERS[1:], _ARCS, strict=False):
        way = np.floor(255 * np.arange(steps) / steps)[:, None]
        arcs.append(255 * np.array(start) + way * (np.array(end) - np.array(start)))
    return np.concatenate(arcs) / 255
