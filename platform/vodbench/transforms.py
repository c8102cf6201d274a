"""Resizing and flipping of images with their boxes and flow.

Boxes are (N, 4) float32 xyxy with inclusive corners, as in ``vodbench.spec``. A resize multiplies every coordinate by
the scale that was really applied (sides are whole pixels, so x and y differ slightly), as published detectors do.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vodbench.spec import Floats, Image

# Resizers differ by several grey levels, so results name the one that was used.
RESIZER = "cv2-linear"


@dataclass(frozen=True, slots=True)
class Resized:
    """An image after resizing, and the way of boxes there and back."""

    image: Image
    scale_x: float  # resized width / original width
    scale_y: float

    def to_resized(self, boxes: Floats) -> Floats:
        """Boxes of the original image, in pixels of the resized one."""
        return (boxes.astype(np.float64) * self._scales()).astype(np.float32)

    def to_original(self, boxes: Floats) -> Floats:
        """The inverse of ``to_resized``: computed in float64, so exact up to the rounding of float32 itself."""
        return (boxes.astype(np.float64) / self._scales()).astype(np.float32)

    def _scales(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])


def resized_size(width: int, height: int, short_side: int, max_side: int) -> tuple[int, int]:
    """(width, height) whose shorter side is ``short_side``, or less where the longer one would pass ``max_side``."""
    scale = min(short_side / min(width, height), max_side / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def resize_shorter(image: Image, short_side: int, max_side: int) -> Resized:
    """Bring the shorter side to ``short_side`` pixels, keeping the longer one within ``max_side``.

    The image is handed on as it is, not copied, when its size is already right.
    """
    height, width = image.shape[:2]
    size = resized_size(width, height, short_side, max_side)
    if size == (width, height):
        return Resized(image, 1.0, 1.0)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return Resized(np.asarray(resized, np.uint8), size[0] / width, size[1] / height)


def flip_image(image: Image) -> Image:
    """The mirror image (left and right swapped), contiguous."""
    return np.ascontiguousarray(image[:, ::-1])


def flip_boxes(boxes: Floats, width: float) -> Floats:
    """Boxes in the mirror image of that width. Inclusive pixels: column x becomes ``width - 1 - x``."""
    flipped = boxes.copy()
    flipped[:, 0] = width - 1 - boxes[:, 2]
    flipped[:, 2] = width - 1 - boxes[:, 0]
    return flipped


def flip_flow(flow: Floats) -> Floats:
    """(H, W, 2) flow between the mirror images of both frames: columns swap, and x changes its sign. A copy."""
    return np.ascontiguousarray(flow[:, ::-1]) * np.array([-1, 1], np.float32)
