"""Region proposal network (Ren et al. 2015, Faster R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench_methods.detection.anchors import cell_anchors, grid_anchors
from vodbench_methods.detection.boxes import clip, decode, encode, pairwise_iou, suppress
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.detection.records import Proposals, Target
from vodbench_methods.detection.sampling import sample_balanced

BETA = 1.0 / 9.0  # where the smooth L1 of the box targets turns linear
UNIT = (1.0, 1.0, 1.0, 1.0)  # box targets are not scaled here
IGNORED, BACKGROUND, OBJECT = -1, 0, 1


@dataclass(frozen=True, slots=True)
class RpnOutput:
    """Raw predictions of a batch; L = H * W * A anchors, rows first."""

    logits: Tensor  # (N, L)
    deltas: Tensor  # (N, L, 4)
    anchors: Tensor  # (L, 4)
    shape: tuple[int, int]  # (H, W) of the feature map


class RegionProposalNetwork(nn.Module):
    """Objectness and box of every anchor on conv4, the proposals made of them, and their losses.

    ``config.rpn_channels`` = 0 leaves out the hidden 3x3 convolution.
    """

    cells: Tensor

    def __init__(self, config: DetectorConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.extent = 1.0 if config.inclusive_boxes else 0.0
        cells = cell_anchors(
            config.anchor_sizes,
            config.anchor_ratios,
            config.feature_stride,
            rounded=config.rounded_anchors,
            at_corner=config.anchor_origin == "corner",
        )
        self.register_buffer("cells", torch.from_numpy(cells), persistent=False)
        hidden = config.rpn_channels or channels
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1) if config.rpn_channels else None
        self.cls_logits = nn.Conv2d(hidden, len(cells), 1)
        self.bbox_pred = nn.Conv2d(hidden, 4 * len(cells), 1)
        for layer in filter(None, (self.conv, self.cls_logits, self.bbox_pred)):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0)  # type: ignore[arg-type]

    def forward(self, c4: Tensor) -> RpnOutput:
        hidden = c4 if self.conv is None else F.relu(self.conv(c4))
        logits = self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(len(c4), -1, 4)
        shape = (c4.shape[2], c4.shape[3])
        return RpnOutput(logits.float(), deltas.float(), grid_anchors(self.cells, self._stride, shape), shape)

    @property
    def _stride(self) -> int:
        return self.config.feature_stride

    @torch.no_grad()
    def propose(
        self, output: RpnOutput, sizes: Sequence[tuple[int, int]], *, candidates: int, limit: int
    ) -> list[Proposals]:
        """At most ``limit`` boxes an image: the ``candidates`` best anchors, decoded, clipped, after NMS."""
        return [
            self._propose(logits, deltas, self._inside(output, size), output.anchors, size, candidates, limit)
            for logits, deltas, size in zip(output.logits, output.deltas, sizes, strict=True)
        ]

    def _propose(
        self,
        logits: Tensor,
        deltas: Tensor,
        inside: Tensor | None,
        anchors: Tensor,
        size: tuple[int, int],
        candidates: int,
        limit: int,
    ) -> Proposals:
        if inside is not None:
            logits, deltas, anchors = logits[inside], deltas[inside], anchors[inside]
        scores, best = logits.sigmoid().topk(min(candidates, len(logits)))
        boxes = clip(decode(deltas[best], anchors[best], UNIT, self.extent), size)
        kept = suppress(boxes, scores, self.config.rpn_nms_threshold, self.extent).sort().values[:limit]
        return Proposals(boxes[kept], scores[kept])

    def losses(
        self, output: RpnOutput, sizes: Sequence[tuple[int, int]], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Cross entropy and smooth L1 of sampled anchors: a mean over an image's samples, then over images."""
        objectness, boxes = output.logits.new_zeros(()), output.logits.new_zeros(())
        for index, (size, target) in enumerate(zip(sizes, targets, strict=True)):
            labels, matched = self._assign(output, size, target)
            positive, negative = sample_balanced(
                labels == OBJECT, labels == BACKGROUND, self.config.rpn_batch, self.config.rpn_positive_fraction
            )
            chosen = torch.cat((positive, negative))
            count = max(len(chosen), 1)
            wanted = (labels[chosen] == OBJECT).to(output.logits.dtype)
            logits, deltas = output.logits[index], output.deltas[index]
            objectness = objectness + (
                F.binary_cross_entropy_with_logits(logits[chosen], wanted, reduction="sum") / count
            )
            if len(positive):
                aims = encode(target.boxes[matched[positive]], output.anchors[positive], UNIT, self.extent)
                boxes = boxes + F.smooth_l1_loss(deltas[positive], aims, reduction="sum", beta=BETA) / count
        return {"rpn_objectness": objectness / len(targets), "rpn_box": boxes / len(targets)}

    def _assign(self, output: RpnOutput, size: tuple[int, int], target: Target) -> tuple[Tensor, Tensor]:
        """Label of every anchor and its most overlapping object. An object's best anchors count whatever the IoU."""
        anchors = output.anchors
        labels = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        matched = torch.zeros_like(labels)
        if len(target.boxes):
            iou = pairwise_iou(target.boxes, anchors, self.extent)  # (M, L)
            overlap, matched = iou.max(dim=0)
            labels[overlap >= self.config.rpn_background_iou] = IGNORED
            best = iou.max(dim=1, keepdim=True).values
            labels[((iou == best) & (best > 0)).any(dim=0)] = OBJECT
            labels[overlap >= self.config.rpn_foreground_iou] = OBJECT
        inside = self._inside(output, size)
        if inside is not None:
            labels[~inside] = IGNORED
        return labels, matched

    def _inside(self, output: RpnOutput, size: tuple[int, int]) -> Tensor | None:
        """(L,) anchors whose cell starts within the image, not in the batch's padding; None: all of them."""
        height, width = output.shape
        rows, columns = (-(-side // self._stride) for side in size)
        if rows >= height and columns >= width:
            return None
        cells = torch.zeros((height, width, len(self.cells)), dtype=torch.bool, device=output.logits.device)
        cells[:rows, :columns] = True
        return cells.flatten()
