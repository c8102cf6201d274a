"""R-FCN (Dai et al., NeurIPS 2016), in the form that Deep Feature Flow and its successors propagate.

Conv5 (stride 16, dilated) is reduced by a 3x3 convolution + ReLU to the map that flow methods propagate. Its first half
feeds the RPN; from its second half a 1x1 convolution makes k * k maps for each class and each box coordinate, and a
RoI's bins vote with equal weight (Eq. 1-2). The RoI feature is the outcome of that vote, (C + 1) logits and 4 deltas:
nothing is left to compute for each RoI.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, MethodSpec, Stage
from vodbench_methods.detection.backbones import build_backbone, load_torchvision_weights
from vodbench_methods.detection.box_head import hardest_rois
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.detection.records import Batch, Proposals, RoiSamples, Target
from vodbench_methods.detection.rpn import RegionProposalNetwork
from vodbench_methods.detection.sampling import label_rois
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, SingleFrameStream
from vodbench_methods.rfcn.config import SMALL, TINY, RFCNConfig
from vodbench_methods.rfcn.copy import CopyStream
from vodbench_methods.rfcn.deformable import deformable_ps_roi_pool, make_deformable
from vodbench_methods.rfcn.position_sensitive import ps_roi_align, ps_roi_pool


class RFCN(SingleFrameDetector):
    """Position-sensitive maps; optionally deformable conv5 and deformable pooling (Dai et al., ICCV 2017)."""

    config: RFCNConfig
    reduction: nn.Conv2d

    def build_heads(self) -> None:
        config, outputs = self.config, self.num_classes + 1 + 4
        if config.deformable == "dcn":
            self._make_conv5_deformable()
        dilation, half = config.map_dilation, config.map_channels // 2
        self.reduction = nn.Conv2d(
            self.backbone.c5_channels, config.map_channels, 3, padding=dilation, dilation=dilation
        )
        nn.init.kaiming_uniform_(self.reduction.weight, a=1)
        nn.init.zeros_(self.reduction.bias)  # type: ignore[arg-type]
        self.rpn = RegionProposalNetwork(config, half)
        self.score_maps = nn.Conv2d(half, outputs * config.roi_size**2, 1)
        nn.init.normal_(self.score_maps.weight, std=0.01)
        nn.init.zeros_(self.score_maps.bias)  # type: ignore[arg-type]
        self.offset_maps: nn.Conv2d | None = None
        if config.pooling == "deformable":
            # x and y of every class, and of the box; zero, so that bins start where they are without offsets.
            self.offset_maps = nn.Conv2d(half, (outputs - 3) * 2 * config.roi_size**2, 1)
            nn.init.zeros_(self.offset_maps.weight)
            nn.init.zeros_(self.offset_maps.bias)  # type: ignore[arg-type]
        self.pooled_channels = outputs
        self.predictor = Votes(self.num_classes)

    def _make_conv5_deformable(self) -> None:
        (conv5,) = self.backbone.stages()[-1]
        groups = self.config.deformable_groups
        try:
            make_deformable(conv5, groups)
        except ValueError as error:
            raise UserError(f"deformable_groups = {groups} is not accepted: {error}; choose a divisor") from error
        self.backbone.freeze(self.config.frozen_stages)

    # ---- image to maps

    @property
    def map_channels(self) -> int:
        return self.config.map_channels

    def extract(self, batch: Batch) -> Tensor:
        """(N, map_channels, h, w) reduced conv5."""
        _, c5 = self.inference_backbone()(batch.tensor)
        return F.relu(self.reduction(c5))

    def feature_parts(self) -> list[nn.Module]:
        return [self.backbone, self.reduction]

    def maps(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """What the RPN sees, and the position-sensitive maps: (C + 1 + 4) * k * k, then those of the offsets if any."""
        # Halves of a channels_last map have gaps, and convolutions over gaps are slow on a CPU.
        rpn_map, roi_map = (half.contiguous() for half in feature_map.chunk(2, dim=1))
        scores = self.score_maps(roi_map)
        return rpn_map, scores if self.offset_maps is None else torch.cat((scores, self.offset_maps(roi_map)), dim=1)

    # ---- maps to RoI features

    def pool(self, maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """(sum n, C + 1 + 4): the mean over the bins of each image's boxes."""
        config, size, stride = self.config, self.config.roi_size, self.config.feature_stride
        if config.pooling == "align":
            bins = ps_roi_align(maps, boxes, size, stride, sampling=config.roi_sampling)
        elif config.pooling == "original":
            bins = ps_roi_pool(maps, boxes, size, stride)
        else:
            bins = self._pool_moved(maps, boxes)
        return bins.mean(dim=(2, 3))

    def _pool_moved(self, maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Deformable pooling: the offsets are pooled first, from maps of their own (Dai et al. 2017, Fig. 4).

        Every class has offsets of its own, the four coordinates of the box share theirs.
        """

        def pooled(part: Tensor, offsets: Tensor | None) -> Tensor:
            return deformable_ps_roi_pool(
                part,
                boxes,
                self.config.roi_size,
                self.config.feature_stride,
                offsets=offsets,
                offset_scale=self.config.offset_scale,
                sampling=self.config.deformable_sampling,
            )

        scores, offset_maps = maps.tensor_split([self.score_maps.out_channels], dim=1)
        offsets = pooled(offset_maps, None)  # (sum n, 2 * (C + 2), k, k)
        return pooled(scores, torch.cat((offsets, *[offsets[:, -2:]] * 3), dim=1))

    def roi_features(self, pooled: Tensor) -> Tensor:
        return pooled

    # ---- inference

    def answer_stream(self, config: RFCNConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        stream = SingleFrameStream(self, config, clock, answer)
        return stream if config.key_frame_interval == 1 else CopyStream(stream, config.key_frame_interval)

    # ---- training

    def load_backbone(self) -> None:
        """As for every detector; the published weights know no offsets, which stay zero."""
        if self.config.deformable == "none":
            super().load_backbone()
        elif self.config.weights is not None and not self._has_weights:
            plain = build_backbone(self.config)
            load_torchvision_weights(plain, self.config.weights)
            self.backbone.load_state_dict(plain.state_dict(), strict=False)

    def sample_rois(self, proposals: Sequence[Proposals], targets: Sequence[Target]) -> list[RoiSamples]:
        """All proposals and annotated boxes where the hard ones among them are found later, else a random sample."""
        if not self.config.ohem:
            return super().sample_rois(proposals, targets)
        return [label_rois(p, t, self.config) for p, t in zip(proposals, targets, strict=True)]

    def head_losses(self, features: Tensor, samples: Sequence[RoiSamples]) -> dict[str, Tensor]:
        """Of the ``roi_batch`` RoIs of highest loss in each image (R-FCN, Sec. 2, "OHEM")."""
        if not self.config.ohem:
            return super().head_losses(features, samples)
        logits, deltas = self.predictor(features)
        hardest = hardest_rois(logits, deltas, samples, self.config.roi_batch)
        images = torch.split(features, [len(s.labels) for s in samples])
        kept = torch.cat([own[rows] for own, rows in zip(images, hardest, strict=True)])
        return super().head_losses(kept, [s.rows(rows) for s, rows in zip(samples, hardest, strict=True)])


class Votes(nn.Module):
    """The outcome of the vote (n, C + 1 + 4) as other detectors' predictors give it: one box for every class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_scores = num_classes + 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, C + 1) logits and (n, 4 * (C + 1)) deltas."""
        logits, deltas = features.float().tensor_split([self.num_scores], dim=1)
        return logits, deltas.repeat(1, self.num_scores)


def _build(config: MethodConfig, num_classes: int) -> RFCN:
    assert isinstance(config, RFCNConfig)
    return RFCN(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, RFCNConfig)
    clips, schedule = config.single_frames(), config.schedule()
    return (Stage(name="detector", method=SPEC.name, config=config, clips=clips, schedule=schedule),)


SPEC = MethodSpec(
    name="r-fcn",
    summary="R-FCN on every frame by itself; with knobs for Deformable R-FCN",
    paper="Dai et al., R-FCN, NeurIPS 2016, and Deformable ConvNets, ICCV 2017; as in Zhu et al., DFF, CVPR 2017",
    config=RFCNConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY, "deformable": {"deformable": "dcn", "pooling": "deformable"}},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
