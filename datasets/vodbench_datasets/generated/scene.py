"""One generated snippet: drawn once from a seed, then rendered frame by frame with its truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vodbench.spec import Bools, Floats, Image, Ints
from vodbench_datasets.generated import appearance
from vodbench_datasets.generated.appearance import Sprite
from vodbench_datasets.generated.bursts import WHOLE_PICTURE, Strengths, draw_strengths
from vodbench_datasets.generated.config import DETERIORATIONS, GeneratorConfig
from vodbench_datasets.generated.motion import Path, draw_paths, draw_shakes, pose
from vodbench_datasets.generated.painting import OPAQUE, line_kernel, paint, warp
from vodbench_datasets.motion import UNKNOWN, Motion

_SMEAR = 0.16  # length of a full motion blur, as a share of the picture
_DEFOCUS = 0.035  # sigma of a full defocus, as a share of the picture

# An object counts as seen, and gets a box, when this share of it shows and the box is not a sliver.
_SEEN, _SEEN_PIXELS = 0.12, 4
# Less hidden or cut off than this is neither "occluded" nor recorded: soft edges and rounding reach a few percent.
_NOTICEABLE = 0.1


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a snippet is rendered from; F frames, K tracks."""

    config: GeneratorConfig
    labels: Ints  # (K,) 1..C
    sprites: tuple[Sprite, ...]
    paths: tuple[Path, ...]
    background: Image  # twice the picture's size
    drift: Floats  # (F, 2) where the picture lies on the background, in pixels
    occluder: Image
    shakes: Floats  # (F, 2) jumps at full strength, in pixels
    smears: Floats  # (F,) direction of motion blur, in radians
    strengths: Strengths
    grain: npt.NDArray[np.int16]  # sensor noise, larger than the picture
    grain_seed: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture and the truth about it; M objects are seen."""

    image: Image
    masks: Bools  # (M, H, W) pixels in which the object shows, in the picture as it was before any blur
    boxes: Floats  # (M, 4) inclusive corners of the masks
    labels: Ints  # (M,)
    track_ids: Ints  # (M,)
    occluded: Bools  # (M,) a tenth or more of what lies inside the picture is hidden
    deteriorations: dict[str, float]
    motion: Motion  # layer 0 is the background, layer k object k - 1; before any blur


def draw_scene(config: GeneratorConfig, stream: int, number: int) -> Scene:
    """Snippet ``number`` of a stream (0 training, 1 validation, 2 stills): a function of these and the seed alone."""
    rng = np.random.default_rng([config.seed, stream, number])
    tracks = int(rng.integers(config.tracks[0], config.tracks[1], endpoint=True))
    # The first object goes through the classes in turn, so that small data sets hold all of them.
    labels = (
        np.concatenate([[number % config.classes], rng.integers(0, config.classes, tracks - 1)]).astype(np.int64) + 1
    )
    pixels = max(config.size // 2, 48)
    return Scene(
        config=config,
        labels=labels,
        sprites=tuple(appearance.make_sprite(appearance.CLASSES[label - 1], pixels, rng) for label in labels),
        paths=draw_paths(config, tracks, rng),
        background=appearance.make_background(2 * config.size, rng),
        drift=_draw_drift(config, rng),
        occluder=appearance.make_occluder(config.size, rng),
        shakes=draw_shakes(config, rng),
        smears=rng.uniform(0, np.pi, config.frames).astype(np.float32),
        strengths=draw_strengths(config, tracks, rng),
        grain=_draw_grain(config, rng),
        grain_seed=int(rng.integers(2**31)),
    )


def render(scene: Scene, frame: int) -> Rendered:
    """Frame ``frame`` of the snippet: layers from back to front, then what the camera does to them, then the truth."""
    shake = scene.shakes[frame] * scene.strengths["camera_shake"][:, frame].max()
    placements = [_view(scene, frame, shake)]
    picture = warp(scene.background, placements[0], scene.config.size, scene.config.size, cv2.BORDER_REFLECT)
    layers = []
    for track, sprite in enumerate(scene.sprites):
        placed = pose(scene.paths[track], scene.strengths, track, frame, scene.config.size, shake)
        matrix = placed.matrix(len(sprite.opacity), sprite.radius)
        whole = float((sprite.opacity > OPAQUE).sum() * abs(np.linalg.det(matrix[:, :2])))
        layers.append((paint(picture, sprite, matrix), whole))
        placements.append(matrix)
    covers = [_cover(scene, track, frame, mask) for track, (mask, _) in enumerate(layers)]
    front = np.logical_or.reduce(covers)
    picture[front] = scene.occluder[front]
    image = _noisy(scene, frame, _blurred(scene, frame, picture, shake))
    motion = Motion(_layer_map([mask for mask, _ in layers], front), np.stack(placements))
    return _with_truth(scene, frame, image, layers, front, motion)


def _layer_map(masks: list[Bools], front: Bools) -> npt.NDArray[np.uint8]:
    """What each pixel shows. Of what is in front only the outline moves, not the surface: its motion is unknown."""
    layers = np.zeros(front.shape, np.uint8)
    for layer, mask in enumerate(masks, start=1):
        layers[mask] = layer
    layers[front] = UNKNOWN
    return layers


def _with_truth(
    scene: Scene, frame: int, image: Image, layers: list[tuple[Bools, float]], front: Bools, motion: Motion
) -> Rendered:
    masks, tracks, hidden, outside = [], [], np.zeros(len(layers)), np.zeros(len(layers))
    above = front
    for track in reversed(range(len(layers))):
        mask, whole = layers[track]
        visible = mask & ~above
        above = above | mask
        inside = int(mask.sum())
        hidden[track] = 1 - visible.sum() / inside if inside else 0
        outside[track] = max(1 - inside / whole, 0)
        if visible.sum() >= _SEEN * whole and min(_box(visible)[2:] - _box(visible)[:2]) >= _SEEN_PIXELS:
            masks.append(visible)
            tracks.append(track)
    order = np.array(tracks[::-1], np.int64)
    size = scene.config.size
    return Rendered(
        image=image,
        masks=np.array(masks[::-1], np.bool_).reshape(-1, size, size),
        boxes=np.array([_box(mask) for mask in masks[::-1]], np.float32).reshape(-1, 4),
        labels=scene.labels[order],
        track_ids=order,
        occluded=hidden[order] >= _NOTICEABLE,
        deteriorations=_record(scene, frame, float(hidden.max()), float(outside.max())),
        motion=motion,
    )


def _record(scene: Scene, frame: int, hidden: float, outside: float) -> dict[str, float]:
    """Occlusion and leaving as they turned out, by chance or by a burst; the others as they were asked for."""
    strongest = {kind: float(scene.strengths[kind][:, frame].max()) for kind in DETERIORATIONS}
    strongest |= {"occlusion": hidden, "leaving_entering": outside}
    return {kind: round(min(value, 1.0), 3) for kind, value in strongest.items() if value >= _NOTICEABLE}


def _box(mask: Bools) -> Floats:
    if not mask.any():
        return np.zeros(4, np.float32)
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], np.float32)


def _draw_drift(config: GeneratorConfig, rng: np.random.Generator) -> Floats:
    """The camera pans steadily over the background and never leaves it."""
    room = config.size
    start = rng.uniform(0.3, 0.7, 2) * room
    pan = rng.uniform(-0.008, 0.008, 2) * config.size
    return np.clip(start + np.arange(config.frames)[:, None] * pan, 0.1 * room, 0.9 * room).astype(np.float32)


def _draw_grain(config: GeneratorConfig, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    side = config.size + config.size // 2
    return (rng.standard_normal((side, side, 3), np.float32) * config.noise).round().astype(np.int16)


def _view(scene: Scene, frame: int, shake: Floats) -> Floats:
    """(2, 3) affine map from background pixels to picture pixels."""
    offset = shake - scene.drift[frame]
    return np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float32)


def _cover(scene: Scene, track: int, frame: int, mask: Bools) -> Bools:
    """Where something in front hides an object: that share of its width, from one side."""
    cover = np.zeros_like(mask)
    strength = float(scene.strengths["occlusion"][track, frame])
    if strength > 0 and mask.any():
        x1, y1, x2, y2 = _box(mask).astype(int)
        width = round((x2 - x1 + 1) * strength)
        margin = (y2 - y1 + 1) // 4
        left = x1 if scene.paths[track].turn > 0 else x2 + 1 - width
        cover[max(y1 - margin, 0) : y2 + 1 + margin, max(left - 2, 0) : left + width] = True
    return cover


def _blurred(scene: Scene, frame: int, picture: Image, shake: Floats) -> Image:
    smear, defocus = (float(scene.strengths[kind][:, frame].max()) for kind in WHOLE_PICTURE[:2])
    length = smear * _SMEAR * scene.config.size
    motion = length * np.array([np.cos(scene.smears[frame]), np.sin(scene.smears[frame])]) + shake / 2
    if np.hypot(*motion) >= 1:
        picture = np.asarray(cv2.filter2D(picture, -1, line_kernel(motion), borderType=cv2.BORDER_REFLECT), np.uint8)
    if defocus > 0:
        sigma = defocus * _DEFOCUS * scene.config.size
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.uint8)
    return picture


def _noisy(scene: Scene, frame: int, picture: Image) -> Image:
    """Sensor noise: a different window of the snippet's grain in every frame."""
    size = scene.config.size
    row, column = np.random.default_rng([scene.grain_seed, frame]).integers(
        0, len(scene.grain) - size, 2, endpoint=True
    )
    window = np.ascontiguousarray(scene.grain[row : row + size, column : column + size])
    return np.asarray(cv2.add(picture, window, dtype=cv2.CV_8U), np.uint8)
