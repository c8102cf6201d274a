"""Where each object is in each frame, before and after the deteriorations that move or turn it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vodbench.spec import Floats
from vodbench_datasets.generated.bursts import Strengths
from vodbench_datasets.generated.config import GeneratorConfig

_SHAKE = 0.08  # share of the picture that a jump of full strength covers
_FORESHORTENED = 0.35  # share of its width that an object of full rare pose shows
_CANDIDATES = 4
_SMALLER, _LARGER = 1 / 2.5, 1.8


@dataclass(frozen=True, slots=True)
class Path:
    """The undisturbed way of one object and the way it takes when disturbed; F frames, pixels and radians."""

    centres: Floats  # (F, 2) x, y
    radii: Floats  # (F,)
    angles: Floats  # (F,)
    turn: float  # -1 or 1: which way a rare pose turns it
    far_factor: float  # radius factor of a full scale change
    exit_angle: float  # direction in which it leaves


@dataclass(frozen=True, slots=True)
class Pose:
    """One object in one frame."""

    centre: Floats  # (2,)
    radius: float
    angle: float
    foreshortening: float  # factor on the sprite's own x axis

    def matrix(self, sprite_pixels: int, sprite_radius: float) -> Floats:
        """(2, 3) affine map from sprite pixels to picture pixels (pixel centres at whole numbers)."""
        scale = self.radius / sprite_radius
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([scale * self.foreshortening, scale])
        middle = np.full(2, (sprite_pixels - 1) / 2)
        return np.hstack([linear, (self.centre - linear @ middle)[:, None]]).astype(np.float32)


def draw_paths(config: GeneratorConfig, count: int, rng: np.random.Generator) -> tuple[Path, ...]:
    """Ways of a snippet's objects, each the least overlapping of a few: objects meet, but seldom stay merged."""
    paths: list[Path] = []
    for _ in range(count):
        candidates = [_draw_path(config, rng) for _ in range(_CANDIDATES if paths else 1)]
        paths.append(max(candidates, key=lambda path: _mean_gap(path, paths)))
    return tuple(paths)


def _mean_gap(path: Path, others: Sequence[Path]) -> float:
    """Mean over frames of the distance to the nearest other object's border, in pixels; overlap is negative."""
    gaps = [np.hypot(*(path.centres - o.centres).T) - path.radii - o.radii for o in others]
    return float(np.minimum(np.min(gaps, axis=0), 0).mean()) if gaps else 0.0


def _draw_path(config: GeneratorConfig, rng: np.random.Generator) -> Path:
    """A way through the picture that turns back before the borders."""
    frames, size = np.arange(config.frames), config.size
    radius = rng.uniform(*config.radius) * size
    heading = rng.uniform(0, 2 * np.pi)
    lively = _liveliness(config, rng)
    velocity = lively * rng.uniform(*config.speed) * size * np.array([np.cos(heading), np.sin(heading)])
    straight = rng.uniform(radius, size - 1 - radius, 2) + frames[:, None] * velocity
    sway = 0.08 * lively * np.sin(frames * rng.uniform(0.1, 0.5) + rng.uniform(0, 2 * np.pi))
    return Path(
        centres=_fold(straight, radius, size - 1 - radius),
        radii=(radius * (1 + sway)).astype(np.float32),
        angles=(rng.uniform(-0.35, 0.35) + frames * lively * rng.uniform(-0.03, 0.03)).astype(np.float32),
        turn=float(rng.choice([-1, 1])),
        far_factor=float(rng.choice([_SMALLER, _LARGER])),
        exit_angle=float(rng.choice([0, 0.5, 1, 1.5]) * np.pi),
    )


def _liveliness(config: GeneratorConfig, rng: np.random.Generator) -> float:
    """Where all objects are equally lively nothing is drawn, which keeps the other draws of a seed."""
    low, high = config.liveliness
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low < high else low


def pose(path: Path, strengths: Strengths, track: int, frame: int, size: int, shake: Floats) -> Pose:
    """Where and how the object is seen; ``shake`` (2,) is the picture's own jump."""
    rare = float(strengths["rare_pose"][track, frame])
    radius = float(path.radii[frame] * path.far_factor ** strengths["scale_change"][track, frame])
    return Pose(
        centre=path.centres[frame]
        + shake
        + _outwards(path, strengths["leaving_entering"][track, frame], frame, size, radius),
        radius=radius,
        angle=float(path.angles[frame] + path.turn * rare * np.pi / 2),
        foreshortening=1 - (1 - _FORESHORTENED) * rare,
    )


def draw_shakes(config: GeneratorConfig, rng: np.random.Generator) -> Floats:
    """(F, 2) jumps in pixels at full strength."""
    angles = rng.uniform(0, 2 * np.pi, config.frames)
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * _SHAKE * config.size).astype(np.float32)


def _outwards(path: Path, strength: float, frame: int, size: int, radius: float) -> Floats:
    """Shift that brings the object to the border and, at strength 1, across it."""
    if strength == 0:
        return np.zeros(2, np.float32)
    direction = np.round([np.cos(path.exit_angle), np.sin(path.exit_angle)])
    to_border = np.where(direction > 0, size - 1 - path.centres[frame], path.centres[frame])
    # Half the burst brings the object to the border, the other half across: parts of it stay visible for some frames.
    distance = (
        np.interp(strength, [0, 0.5, 1], [0, 1, 1]) * to_border + np.interp(strength, [0.5, 1], [-0.6, 1.2]) * radius
    )
    return np.asarray(direction * np.maximum(distance, 0), np.float32)


def _fold(positions: npt.NDArray[np.floating], low: float, high: float) -> Floats:
    """Positions reflected at both ends of [low, high]."""
    span = high - low
    phase = np.mod(positions - low, 2 * span)
    return np.asarray(low + np.where(phase > span, 2 * span - phase, phase), np.float32)
