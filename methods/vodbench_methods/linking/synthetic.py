"""A snippet of made-up detections: tracks found several times a frame, clutter, and relation weights."""

from __future__ import annotations

import numpy as np

from vodbench_methods.linking.records import Doubles, FrameBoxes

WIDTH, HEIGHT = 1280.0, 720.0


def synthetic_snippet(
    *, num_frames: int = 300, num_boxes: int = 100, num_classes: int = 5, num_lent: int = 75, seed: int = 0
) -> list[FrameBoxes]:
    """Frames of ``num_boxes`` boxes over ``num_classes`` classes, in equal parts up to one box.

    Half of a class's boxes belong to objects that drift through the whole snippet, about five near each object as
    before NMS, with scores around the object's own; the others lie anywhere with low scores. Proposals come in random
    order, as many as boxes; the first ``num_lent`` of each frame are lent to the frame before, with weights that sum
    to one a query.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_boxes, dtype=np.int64) % num_classes + 1
    place = np.arange(num_boxes) // num_classes  # within its class
    on_object = place < num_boxes / num_classes / 2
    number = np.where(on_object, (place // 5) * num_classes + labels - 1, 0)
    objects = int(number.max(initial=0)) + 1
    centre, size = _drifting(rng, objects, num_frames)
    quality = rng.uniform(0.3, 0.9, objects)
    frames = []
    for t in range(num_frames):
        near = centre[t, number] + rng.normal(0, 0.06, (num_boxes, 2)) * size[number]
        far = rng.uniform(0, 1, (num_boxes, 2)) * [WIDTH, HEIGHT]
        sides = np.where(on_object[:, None], size[number], np.exp(rng.uniform(3, 5.5, (num_boxes, 2))))
        sides = sides * np.exp(rng.normal(0, 0.06, sides.shape))
        middle = np.where(on_object[:, None], near, far)
        scores = np.where(on_object, quality[number] * rng.beta(4, 1.5, num_boxes), rng.beta(1, 8, num_boxes))
        boxes = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
        proposal = rng.permutation(num_boxes)
        relation = None
        if t < num_frames - 1:
            relation = rng.dirichlet(np.full(min(num_lent, num_boxes), 0.1), num_boxes).astype(np.float32)
        frames.append(FrameBoxes(boxes.astype(np.float32), scores.astype(np.float32), labels, proposal, relation))
    return frames


def _drifting(rng: np.random.Generator, objects: int, num_frames: int) -> tuple[Doubles, Doubles]:
    """Centres (T, O, 2) that wander and turn back at the borders, and sizes (O, 2)."""
    size = np.exp(rng.uniform(np.log(40), np.log(300), (objects, 2)))
    speed = rng.normal(0, 1, (objects, 2)) * rng.choice([0.5, 2.0, 8.0], (objects, 1))
    extent = np.array([WIDTH, HEIGHT])
    straight = rng.uniform(0, 1, (objects, 2)) * extent + np.arange(num_frames)[:, None, None] * speed
    folded = np.abs((straight + extent) % (2 * extent) - extent)
    return folded, size
