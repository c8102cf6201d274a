"""Putting images into a picture, and the kernel that smears one."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vodbench.spec import Bools, Floats, Image
from vodbench_datasets.generated.appearance import Sprite

OPAQUE = 127  # opacity above which a pixel belongs to the object


def warp(image: Image, matrix: Floats, width: int, height: int, border: int = cv2.BORDER_CONSTANT) -> Image:
    """(height, width, ...) what of an image is seen when ``matrix`` (2, 3) takes its pixels to the picture's."""
    return np.asarray(
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border), np.uint8
    )


def paint(picture: Image, sprite: Sprite, matrix: Floats) -> Bools:
    """Put a sprite into the picture, in place; its (H, W) silhouette."""
    size, pixels = len(picture), len(sprite.opacity)
    corners = np.array([[0, 0, pixels, pixels], [0, pixels, 0, pixels], [1, 1, 1, 1]], np.float32)
    placed = matrix @ corners
    left, top = (int(v) for v in np.clip(np.floor(placed.min(axis=1)), 0, size))
    right, bottom = (int(v) for v in np.clip(np.ceil(placed.max(axis=1)) + 1, 0, size))
    silhouette = np.zeros((size, size), np.bool_)
    if left < right and top < bottom:
        inside = (slice(top, bottom), slice(left, right))
        shifted = matrix - np.array([[0, 0, left], [0, 0, top]], np.float32)
        opacity = warp(sprite.opacity, shifted, right - left, bottom - top)
        colours = warp(sprite.colours, shifted, right - left, bottom - top, cv2.BORDER_REPLICATE)
        weight = opacity.astype(np.float32) / 255
        picture[inside] = cv2.blendLinear(colours, np.ascontiguousarray(picture[inside]), weight, 1 - weight)
        silhouette[inside] = opacity > OPAQUE
    return silhouette


def line_kernel(motion: npt.NDArray[np.floating]) -> Floats:
    """Kernel that averages over a straight move, centred on the truth."""
    reach = int(np.ceil(np.abs(motion).max() / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    steps = np.linspace(-0.5, 0.5, 8 * reach + 1)
    for x, y in steps[:, None] * motion + reach:
        column, row = int(x), int(y)
        right, below = x - column, y - row
        kernel[row, column] += (1 - right) * (1 - below)
        kernel[row, column + 1] += right * (1 - below)
        kernel[row + 1, column] += (1 - right) * below
        kernel[row + 1, column + 1] += right * below
    return np.asarray(kernel / kernel.sum(), np.float32)
