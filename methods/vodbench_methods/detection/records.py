"""What the parts of the two-stage detector hand to one another. Boxes are xyxy pixels of the *resized* image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from vodbench.spec import HALF_PRECISION
from vodbench.transforms import Resized


@dataclass(frozen=True, slots=True)
class Batch:
    """Images ready for the backbone, padded with zeros at the right and the bottom to a common size."""

    tensor: Tensor  # (N, 3, H, W) float32, normalised
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each image without the padding
    resized: tuple[Resized, ...]
    flips: tuple[bool, ...]  # mirrored before resizing

    def part(self, start: int, stop: int) -> Batch:
        """Images ``start`` .. ``stop - 1``, padded as before."""
        part = slice(start, stop)
        return Batch(self.tensor[part], self.sizes[part], self.resized[part], self.flips[part])


@dataclass(frozen=True, slots=True)
class Target:
    """The annotated objects of one image of a batch."""

    boxes: Tensor  # (M, 4)
    labels: Tensor  # (M,) int64, 1..C


@dataclass(frozen=True, slots=True)
class Proposals:
    """Class-agnostic boxes of one image by descending objectness; there may be fewer than asked for, even none."""

    boxes: Tensor  # (k, 4)
    objectness: Tensor  # (k,) in [0, 1]

    def top(self, k: int) -> Proposals:
        return Proposals(self.boxes[:k], self.objectness[:k])


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """All that a frame gives to detection in it and around it; n proposals, best first.

    This is the part worth keeping between trials: it depends on weights, preprocessing and proposal settings alone, not
    on T, K, r or how detections are chosen.
    """

    boxes: Tensor  # (n, 4)
    objectness: Tensor  # (n,)
    features: Tensor = field(metadata=HALF_PRECISION)  # (n, D) after the first fully connected layer
    size: tuple[int, int]  # (height, width) of the resized image
    resized: Resized  # the way back to original pixels, without the image

    def top(self, k: int) -> FrameFeatures:
        """The k best proposals (all where there are fewer)."""
        return replace(self, boxes=self.boxes[:k], objectness=self.objectness[:k], features=self.features[:k])


def without_image(resized: Resized) -> Resized:
    return replace(resized, image=np.empty((0, 0, 3), np.uint8))


@dataclass(frozen=True, slots=True)
class RoiSamples:
    """The RoIs of one image that the head is trained on. ``targets`` of a background RoI (label 0) mean nothing."""

    boxes: Tensor  # (n, 4)
    labels: Tensor  # (n,) int64, 0..C
    targets: Tensor  # (n, 4) regression targets

    def rows(self, indices: Tensor) -> RoiSamples:
        return RoiSamples(self.boxes[indices], self.labels[indices], self.targets[indices])


@dataclass(frozen=True, slots=True)
class Selected:
    """Detections of one image before they go back to original pixels, by descending score."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,) int64, 1..C
    proposal: Tensor  # (n,) int64: row of the RoI it came from


def concatenated(proposals: Sequence[Proposals]) -> Proposals:
    """Proposals of several frames as one pool, in the order given."""
    return Proposals(torch.cat([p.boxes for p in proposals]), torch.cat([p.objectness for p in proposals]))
