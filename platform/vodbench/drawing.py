"""Boxes with names and scores, drawn into images."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from math import ceil
from typing import TypeAlias

import cv2
import numpy as np

from vodbench.spec import Floats, Image

Color: TypeAlias = tuple[int, int, int]  # RGB, 0..255

READABLE_SIDE = 320  # shorter side, in pixels, from which names fit beside boxes
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN = 0.618034  # steps of hue by the golden ratio: neighbours in a list never look alike


def readable_upscale(image: Image) -> int:
    """The whole factor that makes the shorter side at least ``READABLE_SIDE`` pixels; 1 for images that are."""
    shorter = int(min(image.shape[:2]))
    return max(1, ceil(READABLE_SIDE / shorter))


def palette(names: Sequence[str]) -> dict[str, Color]:
    """A colour for each name, far from those before it."""
    return {name: _color(0.02 + i * _GOLDEN) for i, name in enumerate(names)}


def draw(
    image: Image,
    boxes: Floats,
    labels: Sequence[str],
    scores: Sequence[float] | Floats | None = None,
    *,
    upscale: int = 1,
    min_width: int = 0,
    colors: Mapping[str, Color] | None = None,
) -> Image:
    """A copy of ``image`` with boxes; those of high score on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy in pixels of ``image``, inclusive corners; parts outside are cut off.
        labels: N names.
        scores: N numbers shown after the names; none are shown when None.
        upscale: the result is this many times larger (tiny frames leave no room for names: ``readable_upscale``).
        min_width: enlarge further, by a whole factor, until the result is at least this wide.
        colors: of names; one derived from the name when it is not there.

    Returns:
        (H * upscale, W * upscale, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    upscale = max(upscale, ceil(min_width / width))
    size = (width * upscale, height * upscale)
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if upscale > 1 else image
    canvas = np.array(enlarged, np.uint8)  # a copy, contiguous as cv2 wants it
    numbers = np.zeros(len(labels)) if scores is None else np.asarray(scores)
    for i in np.argsort(numbers, kind="stable"):
        text = labels[i] if scores is None else f"{labels[i]} {numbers[i]:.2f}"
        color = (colors or {}).get(labels[i]) or _color(zlib.crc32(labels[i].encode()) / 2**32)
        x1, y1, x2, y2 = boxes[i]
        corners = (x1 * upscale, y1 * upscale, (x2 + 1) * upscale - 1, (y2 + 1) * upscale - 1)
        _draw_one(canvas, [round(float(v)) for v in corners], text, color)
    return canvas


def side_by_side(first: Image, *others: Image) -> Image:
    """One picture of several in a row; all get the size of the first, cells of coarse ones as rectangles."""
    height, width = first.shape[:2]
    same = [cv2.resize(other, (width, height), interpolation=cv2.INTER_NEAREST) for other in others]
    return np.hstack([first, *same])


def _draw_one(canvas: Image, corners: Sequence[int], text: str, color: Color) -> None:
    height, width = canvas.shape[:2]
    limits = (width, height, width, height)
    x1, y1, x2, y2 = (min(max(v, -limit), 2 * limit) for v, limit in zip(corners, limits, strict=True))
    side = min(height, width)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, max(1, round(side / 240)), cv2.LINE_8)
    scale = min(max(side / 720, 0.35), 1.0)
    (text_width, text_height), below = cv2.getTextSize(text, _FONT, scale, 1)
    tall = text_height + below + 2
    left = max(0, min(x1, width - text_width - 2))
    top = y1 - tall if y1 >= tall else max(0, min(y1, height - tall))  # inside the box when there is no room above
    cv2.rectangle(canvas, (left, top), (left + text_width + 2, top + tall), color, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 130 else (255, 255, 255)
    cv2.putText(canvas, text, (left + 1, top + text_height + 1), _FONT, scale, ink, 1, cv2.LINE_AA)


def _color(hue: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
