"""RoI features to classes and boxes: layers, losses, and the selection of detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.detection.boxes import clip, decode
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.detection.grouped_nms import suppress_in_groups
from vodbench_methods.detection.records import RoiSamples, Selected


def fully_connected(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer as Detectron initialises it (Kaiming uniform for a unit slope, zero bias)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
    return layer


class BoxHead(nn.Module):
    """The single-frame head: (n, C * p * p) pooled RoIs -> (n, fc_channels), each layer followed by ReLU."""

    def __init__(self, inputs: int, channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [inputs] + [channels] * (num_layers - 1)
        self.fcs = nn.ModuleList(fully_connected(width, channels) for width in widths)

    def forward(self, pooled: Tensor) -> Tensor:
        for layer in self.fcs:
            pooled = F.relu(layer(pooled))
        return pooled


class BoxPredictor(nn.Module):
    """RoI features -> (n, C + 1) class logits, background first, and (n, 4 * (C + 1)) box deltas, one a class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, 4 * (num_classes + 1))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(features).float(), self.bbox_pred(features).float()


def head_losses(logits: Tensor, deltas: Tensor, samples: Sequence[RoiSamples]) -> dict[str, Tensor]:
    """Cross entropy and smooth L1 (beta 1): a mean over an image's RoIs, then over images.

    logits (n, C + 1) and deltas (n, 4 * (C + 1)) of the images' samples one after another.
    """
    weights = torch.cat([logits.new_full((len(s.labels),), 1.0 / max(len(s.labels), 1)) for s in samples])
    weights = weights / len(samples)
    classification, regression, objects = _roi_losses(logits, deltas, samples)
    return {"class": (classification * weights).sum(), "box": (regression * weights[objects]).sum()}


def _roi_losses(logits: Tensor, deltas: Tensor, samples: Sequence[RoiSamples]) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) cross entropies, and (m,) smooth L1 of the m RoIs that are objects, with the rows these stand in."""
    labels = torch.cat([s.labels for s in samples])
    classification = F.cross_entropy(logits, labels, reduction="none")
    (objects,) = torch.where(labels > 0)
    predicted = deltas.view(len(deltas), logits.shape[1], 4)[objects, labels[objects]]
    wanted = torch.cat([s.targets for s in samples])[objects]
    return classification, F.smooth_l1_loss(predicted, wanted, reduction="none", beta=1.0).sum(dim=1), objects


@torch.no_grad()
def hardest_rois(logits: Tensor, deltas: Tensor, samples: Sequence[RoiSamples], limit: int) -> list[Tensor]:
    """Rows of each image's samples with the highest loss, at most ``limit`` (online hard example mining).

    Shrivastava et al., CVPR 2016, without their NMS, as R-FCN does it. logits and deltas as in ``head_losses``.
    """
    classification, regression, objects = _roi_losses(logits, deltas, samples)
    losses = classification.index_add(0, objects, regression)
    images = torch.split(losses, [len(s.labels) for s in samples])
    return [own.topk(min(limit, len(own))).indices for own in images]


@torch.no_grad()
def select_candidates(
    logits: Tensor, deltas: Tensor, boxes: Tensor, size: tuple[int, int], config: DetectorConfig
) -> Selected:
    """Every (proposal, class) of one image that scores more than the threshold, before NMS, by proposal.

    logits (n, C + 1), deltas (n, 4 * (C + 1)) and boxes (n, 4) of its proposals; size (height, width) in pixels.
    """
    extent = 1.0 if config.inclusive_boxes else 0.0
    scores = logits.softmax(dim=1)[:, 1:]  # (n, C)
    proposal, label = torch.where(scores > config.score_threshold)
    kept_deltas = deltas.view(len(deltas), logits.shape[1], 4)[proposal, label + 1]
    kept_boxes = clip(decode(kept_deltas, boxes[proposal], config.box_weights, extent), size)
    return Selected(kept_boxes, scores[proposal, label], label + 1, proposal)


@torch.no_grad()
def select_detections(
    logits: Tensor, deltas: Tensor, boxes: Tensor, size: tuple[int, int], config: DetectorConfig
) -> Selected:
    """Detections of one image: the candidates after NMS per class, the best ``max_detections``."""
    return select_detections_of_many(logits[None], deltas[None], boxes, size, config)[0]


@torch.no_grad()
def select_detections_of_many(
    logits: Tensor, deltas: Tensor, boxes: Tensor, size: tuple[int, int], config: DetectorConfig
) -> list[Selected]:
    """``select_detections`` for S predictions of the same proposals, each by itself: logits (S, n, C + 1), deltas
    (S, n, 4 * (C + 1))."""
    many, count = logits.shape[:2]
    found = select_candidates(logits.flatten(0, 1), deltas.flatten(0, 1), boxes.repeat(many, 1), size, config)
    one = found.proposal // max(count, 1)  # which prediction each candidate is of
    extent = 1.0 if config.inclusive_boxes else 0.0
    groups = one * logits.shape[2] + found.labels
    (kept,) = torch.where(suppress_in_groups(found.boxes, found.scores, groups, config.nms_threshold, extent))
    kept = kept[found.scores[kept].argsort(descending=True, stable=True)]
    kept = kept[one[kept].argsort(stable=True)]  # by prediction, then by descending score
    lots = torch.split(kept, torch.bincount(one[kept], minlength=many).tolist())
    return [
        Selected(found.boxes[best], found.scores[best], found.labels[best], found.proposal[best] - number * count)
        for number, best in enumerate(lot[: config.max_detections] for lot in lots)
    ]
