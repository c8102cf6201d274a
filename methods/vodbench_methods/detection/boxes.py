"""Box arithmetic on tensors. Boxes are (N, 4) float32 xyxy in pixels of the resized image.

``extent`` is what a width adds to ``x2 - x1``: 0 here, 1 in the inclusive convention of Caffe and mega.pytorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor

# exp(dw) is limited so that a wild prediction stays finite: 16 px grow to 1000 px at most (Detectron's value).
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float], extent: float = 0.0) -> Tensor:
    """Targets (dx, dy, dw, dh) that move ``anchors`` onto ``boxes``; both (N, 4). Faster R-CNN, Eq. 2."""
    cx, cy, w, h = _centres(boxes, extent)
    ax, ay, aw, ah = _centres(anchors, extent)
    wx, wy, ww, wh = weights
    targets = (wx * (cx - ax) / aw, wy * (cy - ay) / ah, ww * torch.log(w / aw), wh * torch.log(h / ah))
    return torch.stack(targets, dim=1)


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float], extent: float = 0.0) -> Tensor:
    """The inverse of ``encode``. ``deltas`` (N, 4 * k) holds k boxes an anchor (one a class); so does the result."""
    ax, ay, aw, ah = (value[:, None] for value in _centres(anchors, extent))
    wx, wy, ww, wh = weights
    cx = deltas[:, 0::4] / wx * aw + ax
    cy = deltas[:, 1::4] / wy * ah + ay
    w = torch.exp((deltas[:, 2::4] / ww).clamp(max=MAX_LOG_SCALE)) * aw
    h = torch.exp((deltas[:, 3::4] / wh).clamp(max=MAX_LOG_SCALE)) * ah
    corners = (cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w - extent, cy + 0.5 * h - extent)
    return torch.stack(corners, dim=2).flatten(1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4 * k) cut at the image's outermost pixels; ``size`` is (height, width)."""
    height, width = size
    x = boxes[:, 0::2].clamp(0, width - 1)
    y = boxes[:, 1::2].clamp(0, height - 1)
    return torch.stack((x, y), dim=2).flatten(1)


def pairwise_iou(a: Tensor, b: Tensor, extent: float = 0.0) -> Tensor:
    """(N, M) intersection over union."""
    iou: Tensor = torchvision.ops.box_iou(widened(a, extent), widened(b, extent))
    return iou


def suppress(boxes: Tensor, scores: Tensor, threshold: float, extent: float = 0.0) -> Tensor:
    """Greedy non-maximum suppression: indices of the boxes that stay, by descending score.

    Where scores tie (a saturated sigmoid), the order of torch's default sort decides, as in mega.pytorch.
    """
    order = scores.sort(descending=True).indices
    kept: Tensor = torchvision.ops.nms(widened(boxes[order], extent), scores[order], threshold)
    return order[kept]


def widened(boxes: Tensor, extent: float) -> Tensor:
    """Boxes whose plain ``x2 - x1`` is their width."""
    return boxes + boxes.new_tensor((0.0, 0.0, extent, extent)) if extent else boxes


def _centres(boxes: Tensor, extent: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w, h = boxes[:, 2] - boxes[:, 0] + extent, boxes[:, 3] - boxes[:, 1] + extent
    return boxes[:, 0] + 0.5 * w, boxes[:, 1] + 0.5 * h, w, h
