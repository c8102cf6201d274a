"""What classes and backgrounds look like.

A class is a shape with a fine texture. Colours are drawn per object, so they tell nothing about the class; classes that
share a shape differ in their texture alone, which a blurred frame does not show and a sharp neighbour does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from vodbench.spec import ClassInfo, Floats, Image

Points: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Appearance:
    """A class: its shape and its texture by name."""

    shape: str
    texture: str

    @property
    def info(self) -> ClassInfo:
        return ClassInfo(f"{self.shape}_{self.texture}", f"{self.texture} {self.shape}")


CLASSES: tuple[Appearance, ...] = (
    Appearance("disc", "striped"),
    Appearance("disc", "dotted"),
    Appearance("square", "striped"),
    Appearance("square", "checked"),
    Appearance("star", "striped"),
    Appearance("triangle", "checked"),
    Appearance("triangle", "striped"),
    Appearance("cross", "dotted"),
    Appearance("star", "dotted"),
    Appearance("cross", "striped"),
)
MAX_CLASSES = len(CLASSES)

# Texture periods in an object's radius: at 128 px a period is 5 to 10 px, visible when sharp and gone when blurred.
_PERIOD = 0.42


@dataclass(frozen=True, slots=True)
class Sprite:
    """An object seen upright: (P, P, 3) uint8 colours, (P, P) uint8 opacity; its radius is 3/8 of P."""

    colours: Image
    opacity: Image

    @property
    def radius(self) -> float:
        return len(self.opacity) * 3 / 8


def make_sprite(appearance: Appearance, pixels: int, rng: np.random.Generator) -> Sprite:
    """A sprite of ``pixels`` squared, in colours of its own."""
    steps = (np.arange(pixels, dtype=np.float32) + 0.5 - pixels / 2) / (pixels * 3 / 8)
    x, y = np.meshgrid(steps, steps)
    light, dark = _two_tones(rng)
    weight = _texture(appearance.texture, x, y, phase=float(rng.uniform(0, 2 * np.pi)))[..., None]
    # Light falls from a side: objects look solid, and their edges differ from frame to frame as they turn.
    shade = 1 + 0.18 * (x * np.cos(tilt := rng.uniform(0, 2 * np.pi)) + y * np.sin(tilt))[..., None]
    colours = np.clip((weight * light + (1 - weight) * dark) * shade, 0, 255).astype(np.uint8)
    return Sprite(colours, _opacity(appearance.shape, pixels))


def make_background(size: int, rng: np.random.Generator) -> Image:
    """(size, size, 3) uint8: noise of several scales in two colours, with soft blobs that belong to no class."""
    octaves = sum(share * _noise(size, cells, rng) for cells, share in ((4, 0.5), (11, 0.3), (40, 0.35)))
    weight = np.clip(octaves * 0.5 + 0.5, 0, 1)[..., None]
    first, second = (rng.uniform(40, 215, 3) for _ in range(2))
    background = (weight * first + (1 - weight) * second).astype(np.float32)
    for _ in range(rng.integers(8, 15)):
        _add_blob(background, rng)
    return np.clip(background, 0, 255).astype(np.uint8)


def make_occluder(size: int, rng: np.random.Generator) -> Image:
    """(size, size, 3) uint8: the surface of something in front, coarser than any object's texture."""
    grain = _noise(size, 6, rng)[..., None] * 30
    return np.clip(rng.uniform(50, 200, 3) + grain, 0, 255).astype(np.uint8)


def _two_tones(rng: np.random.Generator) -> tuple[Floats, Floats]:
    base = rng.uniform(60, 195, 3)
    contrast = rng.uniform(45, 60)
    return (base + contrast).astype(np.float32), (base - contrast).astype(np.float32)


def _texture(name: str, x: Floats, y: Floats, phase: float) -> Floats:
    """Share of the light tone, about 0 to 1; every texture has the mean 0.5, so that only the pattern tells."""
    fx, fy = (2 * np.pi / _PERIOD * x + phase), (2 * np.pi / _PERIOD * y + phase)
    waves = {
        "striped": np.sin(fy),
        "checked": np.sin(fx) * np.sin(fy),
        "dotted": np.cos(fx) + np.cos(fy) - 0.7,
    }
    share = 1 / (1 + np.exp(-6 * waves[name]))
    return np.asarray(share - share.mean() + 0.5, np.float32)


def _opacity(shape: str, pixels: int) -> Image:
    scale = 4  # drawn larger and shrunk: soft edges that are the same on every platform
    mask = np.zeros((pixels * scale, pixels * scale), np.uint8)
    centre, radius = pixels * scale / 2, pixels * scale * 3 / 8
    points = np.array(_OUTLINES[shape]) * radius + centre
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    return np.asarray(cv2.resize(mask, (pixels, pixels), interpolation=cv2.INTER_AREA), np.uint8)


def _ring(count: int, radii: tuple[float, ...], start: float = -np.pi / 2) -> Points:
    angles = start + 2 * np.pi * np.arange(count) / count
    return [(radii[i % len(radii)] * np.cos(a), radii[i % len(radii)] * np.sin(a)) for i, a in enumerate(angles)]


_OUTLINES: dict[str, Points] = {
    "disc": _ring(64, (1.0,)),
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "star": _ring(10, (1.15, 0.55)),
    "triangle": [(0.0, -1.05), (1.0, 0.8), (-1.0, 0.8)],
    "cross": [(x * sx, y * sy) for sx, sy, xy in (
        (1, -1, ((0.38, 1.0), (0.38, 0.38), (1.0, 0.38))),
        (1, 1, ((1.0, 0.38), (0.38, 0.38), (0.38, 1.0))),
        (-1, 1, ((0.38, 1.0), (0.38, 0.38), (1.0, 0.38))),
        (-1, -1, ((1.0, 0.38), (0.38, 0.38), (0.38, 1.0))),
    ) for x, y in xy],
}  # fmt: skip


def _noise(size: int, cells: int, rng: np.random.Generator) -> Floats:
    """(size, size) smooth noise of about unit deviation with features of size / cells."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _add_blob(background: Floats, rng: np.random.Generator) -> None:
    """Mix a soft ellipse of one colour into the background, in place."""
    size = len(background)
    x, y = (int(v) for v in rng.integers(0, size, 2))
    axes = tuple(int(v) for v in rng.integers(size // 40, size // 9, 2))
    reach = max(axes) + size // 30  # the ellipse and its soft edge
    mask = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    cv2.ellipse(mask, (reach, reach), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), size / 150) * np.float32(rng.uniform(0.5, 0.9))
    left, top = max(x - reach, 0), max(y - reach, 0)
    patch = background[top : y + reach + 1, left : x + reach + 1]
    weight = mask[top - y + reach :, left - x + reach :][: patch.shape[0], : patch.shape[1], None]
    patch += weight * (rng.uniform(40, 215, 3).astype(np.float32) - patch)
