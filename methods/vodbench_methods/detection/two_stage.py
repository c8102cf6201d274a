"""The parts every two-stage method shares: image in, proposals and pooled RoI features, detections out.

A method composes them (``faster_rcnn`` is the shortest example). Boxes between the parts are pixels of the resized
image; only ``detections`` and ``boxes_to_link`` go back to the original's.

The way from image to detections has two halves (N_feat and N_task of Zhu et al., Deep Feature Flow, CVPR 2017):
``extract`` gives the feature map of an image, ``maps`` and all that follows answers from such a map. Methods that
propagate features from frame to frame do so between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.spec import ClipFrame, Clock, Detections, Floats, Image, Ints, Stream
from vodbench.transforms import Resized, flip_boxes, flip_image, resize_shorter
from vodbench_methods.detection.backbones import Backbone, build_backbone, load_torchvision_weights
from vodbench_methods.detection.batch_norm import FoldedCopy
from vodbench_methods.detection.box_head import (
    BoxPredictor,
    head_losses,
    select_candidates,
    select_detections,
    select_detections_of_many,
)
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.config import DetectorConfig, FasterRCNNConfig
from vodbench_methods.detection.products import rows_are_exact
from vodbench_methods.detection.records import (
    Batch,
    FrameFeatures,
    Proposals,
    RoiSamples,
    Selected,
    Target,
    without_image,
)
from vodbench_methods.detection.roi_align import roi_align
from vodbench_methods.detection.rpn import RegionProposalNetwork, RpnOutput
from vodbench_methods.detection.sampling import sample_rois
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, inference_config
from vodbench_methods.linking import FrameBoxes, linked_stream, wants_candidates


class TwoStageDetector(nn.Module):
    """Backbone, RPN, RoI pooling and box predictor; a subclass adds what turns pooled RoIs into RoI features.

    Heads, maps and pooling are Faster R-CNN's; R-FCN brings others.

    ``pooled_channels``: width of a pooled RoI, C * p * p. ``config.fc_channels``: what ``predictor`` takes.
    """

    config: Any  # a DetectorConfig; methods narrow it
    rpn: RegionProposalNetwork
    predictor: nn.Module  # (n, D) RoI features -> (n, C + 1) logits and (n, 4 * (C + 1)) deltas
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config)
        self.build_heads()
        self.register_buffer("pixel_mean", torch.tensor(config.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.pixel_std).view(3, 1, 1), persistent=False)
        self._folded = FoldedCopy()
        self._has_weights = False

    def build_heads(self) -> None:
        """Everything behind the backbone that ``maps``, ``pool`` and ``predictor`` are made of."""
        config: FasterRCNNConfig = self.config
        channels = self.backbone.c5_channels
        self.reduction: nn.Conv2d | None = None
        if config.conv5_reduction is not None:
            kernel = config.conv5_reduction_kernel
            self.reduction = nn.Conv2d(channels, config.conv5_reduction, kernel, padding=kernel // 2)
            nn.init.kaiming_uniform_(self.reduction.weight, a=1)
            nn.init.zeros_(self.reduction.bias)  # type: ignore[arg-type]
            channels = config.conv5_reduction
        self.pooled_channels = channels * config.roi_size**2
        self.rpn = RegionProposalNetwork(config, self.backbone.c4_channels if config.rpn_input == "conv4" else channels)
        self.predictor = BoxPredictor(config.fc_channels, self.num_classes)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    # ---- image to features

    def preprocess(self, images: Sequence[Image], flips: Sequence[bool] | None = None) -> Batch:
        """Mirror where asked, resize, normalise and pad a batch. Images (H, W, 3) uint8 RGB of any sizes."""
        flips = tuple(flips) if flips is not None else (False,) * len(images)
        resized = tuple(
            resize_shorter(flip_image(image) if flip else image, self.config.short_side, self.config.max_side)
            for image, flip in zip(images, flips, strict=True)
        )
        sizes = tuple((r.image.shape[0], r.image.shape[1]) for r in resized)
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        if all(size == (height, width) for size in sizes):
            return Batch(self._normalised(np.stack([r.image for r in resized])), sizes, resized, flips)
        tensors = [
            F.pad(self._normalised(r.image[None]), (0, width - w, 0, height - h))
            for r, (h, w) in zip(resized, sizes, strict=True)
        ]
        return Batch(torch.cat(tensors), sizes, resized, flips)

    def _normalised(self, images: Image) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32. Contiguous: another layout rounds otherwise, in other kernels."""
        tensor = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).contiguous()
        if self.config.channel_order == "bgr":
            tensor = tensor.flip(1)
        return (tensor.float() - self.pixel_mean) / self.pixel_std

    def targets(self, frames: Sequence[ClipFrame], batch: Batch) -> list[Target]:
        """Annotations of the frames of a batch, in its pixels."""
        return [self._target(*parts) for parts in zip(frames, batch.resized, batch.flips, strict=True)]

    def _target(self, frame: ClipFrame, resized: Resized, flip: bool) -> Target:
        boxes = flip_boxes(frame.truth.boxes, frame.image.shape[1]) if flip else frame.truth.boxes
        scaled = torch.from_numpy(resized.to_resized(boxes).reshape(-1, 4)).to(self.device)
        return Target(scaled, torch.from_numpy(frame.truth.labels.astype(np.int64)).to(self.device))

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The maps of the RPN (``rpn_input``) and of the RoIs: conv5, reduced where configured."""
        return self.maps(self.extract(batch))

    @property
    def map_channels(self) -> int:
        """C of what ``extract`` gives."""
        return self.backbone.c4_channels

    def extract(self, batch: Batch) -> Tensor:
        """(N, C, h, w) conv4, the feature map that may be propagated; the first half of ``features``."""
        return self.inference_backbone().to_c4(batch.tensor)

    def feature_parts(self) -> list[nn.Module]:
        """The modules that ``extract`` is made of; all others belong to the second half."""
        return [module for stage in self.backbone.stages()[:-1] for module in stage]

    def maps(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """The second half of ``features``, from (N, C, h, w) maps of images or propagated ones."""
        c5 = self.inference_backbone().to_c5(feature_map)
        if self.reduction is not None:
            c5 = F.relu(self.reduction(c5))
        return feature_map if self.config.rpn_input == "conv4" else c5, c5

    def inference_backbone(self) -> Backbone:
        """The backbone, its batch norm folded at inference."""
        folding = not self.training and not torch.is_grad_enabled()
        return cast(Backbone, self._folded.of(self.backbone)) if folding else self.backbone

    # ---- features to proposals and pooled RoIs

    def propose_for_training(self, output: RpnOutput, sizes: Sequence[tuple[int, int]]) -> list[Proposals]:
        """Proposals in training, from predictions that also go into ``rpn.losses``."""
        return self.rpn.propose(
            output, sizes, candidates=self.config.train_candidates, limit=self.config.train_proposals
        )

    def sample_rois(self, proposals: Sequence[Proposals], targets: Sequence[Target]) -> list[RoiSamples]:
        return sample_rois(proposals, targets, self.config)

    def pool(self, c5: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """(sum n, pooled_channels): RoIAlign of each image's boxes, flattened channel by channel."""
        bins = roi_align(
            c5,
            boxes,
            self.config.roi_size,
            self.config.feature_stride,
            sampling=self.config.roi_sampling,
            aligned=self.config.roi_aligned,
        )
        return bins.flatten(1)

    def encode_frame(
        self, image: Image, candidates: int, limit: int, head: Callable[[Tensor], Tensor], clock: Clock
    ) -> FrameFeatures:
        """Image in, ``limit`` proposals of ``candidates`` and their features out, timed stage by stage.

        ``head``: (n, pooled_channels) pooled RoIs -> (n, fc_channels) features.
        """
        with clock.stage("preprocess"):
            batch = self.preprocess([image])
        with clock.stage("backbone"):
            maps = self.features(batch)
        return self._encoded(maps, batch, candidates, limit, head, clock)

    def encode_map(
        self,
        feature_map: Tensor,
        batch: Batch,
        candidates: int,
        limit: int,
        head: Callable[[Tensor], Tensor],
        clock: Clock,
    ) -> FrameFeatures:
        """The rest of ``encode_frame``, from the (1, C, h, w) map of the one image of ``batch``, own or propagated."""
        with clock.stage("maps"):
            maps = self.maps(feature_map)
        return self._encoded(maps, batch, candidates, limit, head, clock)

    def _encoded(
        self,
        maps: tuple[Tensor, Tensor],
        batch: Batch,
        candidates: int,
        limit: int,
        head: Callable[[Tensor], Tensor],
        clock: Clock,
    ) -> FrameFeatures:
        rpn_map, roi_map = maps
        with clock.stage("proposals"):
            (proposals,) = self.rpn.propose(self.rpn(rpn_map), batch.sizes, candidates=candidates, limit=limit)
        with clock.stage("roi"):
            pooled = self.pool(roi_map, [proposals.boxes])
        with clock.stage("head"):
            features = head(pooled)
        resized = without_image(batch.resized[0])
        return FrameFeatures(proposals.boxes, proposals.objectness, features, batch.sizes[0], resized)

    # ---- RoI features to losses and detections

    def head_losses(self, features: Tensor, samples: Sequence[RoiSamples]) -> dict[str, Tensor]:
        """Losses of the predictor on (sum n, fc_channels) features of the samples."""
        logits, deltas = self.predictor(features)
        return head_losses(logits, deltas, samples)

    def detections(self, frame: FrameFeatures, features: Tensor, config: DetectorConfig) -> Detections:
        """Detections in original pixels from the (n, fc_channels) features of ``frame``'s n proposals."""
        logits, deltas = self.predictor(features)
        selected = select_detections(logits, deltas, frame.boxes, frame.size, config)
        return Detections(*_in_original(selected, frame.resized))

    def detections_of_many(
        self, frame: FrameFeatures, features: Sequence[Tensor], configs: Sequence[DetectorConfig]
    ) -> list[Detections]:
        """``detections`` for several configurations, each with its own features of ``frame``'s n proposals.

        Every configuration gets what ``detections`` gives it. Features that are the same tensor are looked at once.
        """
        distinct = list({id(own): own for own in features}.values())
        place = {id(own): number for number, own in enumerate(distinct)}
        logits, deltas = self._predictions(distinct)
        found: list[Detections | None] = [None] * len(configs)
        for alike in _alike(configs):
            chosen = [place[id(features[n])] for n in alike]
            selected = select_detections_of_many(
                logits[chosen], deltas[chosen], frame.boxes, frame.size, configs[alike[0]]
            )
            for number, own in zip(alike, selected, strict=True):
                found[number] = Detections(*_in_original(own, frame.resized))
        return cast(list[Detections], found)

    def _predictions(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(S, n, C + 1) logits and (S, n, 4 * (C + 1)) deltas of S times (n, fc_channels)."""
        if rows_are_exact(len(features[0]), features[0].device):
            logits, deltas = self.predictor(torch.cat(list(features)))
            return logits.unflatten(0, (len(features), -1)), deltas.unflatten(0, (len(features), -1))
        logits, deltas = zip(*map(self.predictor, features), strict=True)
        return torch.stack(logits), torch.stack(deltas)

    def boxes_to_link(
        self, frame: FrameFeatures, features: Tensor, config: DetectorConfig, relation: Tensor | None = None
    ) -> FrameBoxes:
        """What linking takes in place of ``detections``: boxes with the proposals they came from.

        ``relation``: see ``Answer``.
        """
        logits, deltas = self.predictor(features)
        select = select_candidates if wants_candidates(config.linking) else select_detections
        selected = select(logits, deltas, frame.boxes, frame.size, config)
        weights = None if relation is None else relation.float().cpu().numpy()
        return FrameBoxes(*_in_original(selected, frame.resized), selected.proposal.cpu().numpy(), weights)

    # ---- streams

    def stream(self, config: MethodConfig | None = None, clock: Clock | None = None) -> Stream:
        """See ``vodbench.spec.Method.stream``; with linking, everything is final when the snippet ends."""
        own: DetectorConfig = inference_config(self.config, config)
        clock = clock or NullClock()
        return self.linked(own, clock, partial(self.answer_stream, own, clock))

    def linked(
        self, own: DetectorConfig, clock: Clock, answering: Callable[[Answer[Any]], AnswerStream[Any]]
    ) -> Stream:
        """Detections, linked where ``own`` says so, of the stream that ``answering`` makes for a kind of answer."""

        def detected(frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> Detections:
            return self.detections(frame, features, own)

        def unlinked(frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> FrameBoxes:
            return self.boxes_to_link(frame, features, own, relation)

        if own.linking == "none":
            return answering(detected)
        return linked_stream(
            answering(unlinked), own.linking, clock=clock, limit=own.max_detections, unlinked=own.unlinked
        )

    def answer_stream(self, config: Any, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        """The method's stream before linking: its frames' answers, in order."""
        raise NotImplementedError

    # ---- weights

    def load_backbone(self) -> None:
        """Give a backbone that holds random numbers the torchvision weights of ``config.weights``, if any.

        A network whose weights came from a checkpoint or an earlier stage keeps them.
        """
        if self.config.weights is not None and not self._has_weights:
            load_torchvision_weights(self.backbone, self.config.weights)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict, assign)
        self.mark_loaded()
        return result

    def mark_loaded(self) -> None:
        """The weights came from somewhere, perhaps as part of a larger network: ``config.weights`` are not wanted."""
        self._has_weights = True

    def load_initial(self, weights: Mapping[str, Tensor]) -> None:
        """Take every weight whose name and shape agree; ``UserError`` when none does."""
        own = self.state_dict()
        fitting = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
        if not fitting:
            raise UserError(
                f"none of the {len(weights)} given weights fits this {type(self).__name__} (by name and shape); "
                "start from a checkpoint of the same backbone and detector settings"
            )
        self.load_state_dict(fitting, strict=False)


def _alike(configs: Sequence[DetectorConfig]) -> list[list[int]]:
    """The numbers of the configurations that select detections in the same way."""
    ways: dict[tuple[float, float, int], list[int]] = {}
    for number, config in enumerate(configs):
        way = (config.score_threshold, config.nms_threshold, config.max_detections)
        ways.setdefault(way, []).append(number)
    return list(ways.values())


def _in_original(selected: Selected, resized: Resized) -> tuple[Floats, Floats, Ints]:
    """(boxes, scores, labels) in pixels of the original image."""
    boxes = resized.to_original(selected.boxes.float().cpu().numpy())
    return boxes, selected.scores.float().cpu().numpy(), selected.labels.cpu().numpy()
