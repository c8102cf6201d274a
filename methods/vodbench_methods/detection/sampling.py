"""Which anchors and RoIs a training step looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vodbench_methods.detection.boxes import encode, pairwise_iou
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.detection.records import Proposals, RoiSamples, Target


def sample_balanced(positive: Tensor, negative: Tensor, total: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Indices of at most ``total`` random rows, at most ``positive_fraction`` of them from the mask ``positive``.

    Missing positives are made up for by negatives, not the other way round. Draws from torch's global generator.
    """
    (positives,), (negatives,) = torch.where(positive), torch.where(negative)
    num_positives = min(len(positives), int(total * positive_fraction))
    num_negatives = min(len(negatives), total - num_positives)
    return _draw(positives, num_positives), _draw(negatives, num_negatives)


def _draw(indices: Tensor, count: int) -> Tensor:
    # Drawn on the CPU, so that a seed gives the same samples on every device.
    return indices[torch.randperm(len(indices))[:count].to(indices.device)]


def sample_rois(proposals: Sequence[Proposals], targets: Sequence[Target], config: DetectorConfig) -> list[RoiSamples]:
    """The RoIs of each image that the head learns from: proposals and the annotated boxes, objects at most 1:3.

    Sampled objects come first. An image without proposals and annotations gives no RoIs.
    """
    return [_sample(p, t, config) for p, t in zip(proposals, targets, strict=True)]


def _sample(proposals: Proposals, target: Target, config: DetectorConfig) -> RoiSamples:
    every = label_rois(proposals, target, config)
    chosen = sample_balanced(every.labels > 0, every.labels == 0, config.roi_batch, config.roi_positive_fraction)
    return every.rows(torch.cat(chosen))


@torch.no_grad()
def label_rois(proposals: Proposals, target: Target, config: DetectorConfig) -> RoiSamples:
    """All proposals of an image and then its annotated boxes, each with the object it overlaps enough, or none."""
    extent = 1.0 if config.inclusive_boxes else 0.0
    boxes = torch.cat((proposals.boxes, target.boxes))
    labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    aims = boxes.clone()
    if len(target.boxes) and len(boxes):
        overlap, matched = pairwise_iou(boxes, target.boxes, extent).max(dim=1)
        hit = overlap >= config.roi_foreground_iou
        labels[hit] = target.labels[matched[hit]]
        aims[hit] = target.boxes[matched[hit]]
    targets = torch.zeros_like(boxes)
    objects = labels > 0
    targets[objects] = encode(aims[objects], boxes[objects], config.box_weights, extent)
    return RoiSamples(boxes, labels, targets)
