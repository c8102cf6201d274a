"""SELSA: proposals aggregate semantics over the whole sequence (Wu et al., ICCV 2019).

S the proposals of the support frames, x those of the reference frame; with M modules, as in the published code
(mmtracking's ``SelsaBBoxHead``; a_m is ``SemanticAggregation``)::

    S_1 = fc_1(RoI),   S_m = fc_m(ReLU(S_{m-1}))                             supports aggregate nothing themselves
    x_1 = fc_1(RoI),   y_m = ReLU(x_m + a_m(x_m, S_m)),   x_{m+1} = fc_{m+1}(y_m)

so that keys and values of a support frame are made once, whatever frame they serve. In training S is the proposals of
the clip's support frames; at test those of the support frames and the reference frame's own (``own_frame``), which
count once more where the reference frame happens to be a support frame too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, Detections, Image
from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.detection.clip_training import ClipTrainedDetector, lent_frames
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch, FrameFeatures, Proposals, RoiSamples
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found
from vodbench_methods.detection.warm_start import relation_method
from vodbench_methods.selsa.aggregation import Lent, SemanticAggregation
from vodbench_methods.selsa.config import SMALL, TINY, SELSAConfig
from vodbench_methods.sequence import detect_from_scratch, sequence_stream


class SELSA(ClipTrainedDetector):
    """Faster R-CNN with an aggregation module after each fully connected layer of its head."""

    config: SELSAConfig

    def __init__(self, config: SELSAConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        widths = [self.pooled_channels] + [config.fc_channels] * (config.modules - 1)
        self.fcs = nn.ModuleList(fully_connected(width, config.fc_channels) for width in widths)
        self.aggregators = nn.ModuleList(SemanticAggregation(config.fc_channels, config.heads) for _ in widths)

    # ---- a frame by itself

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        config = cast(SELSAConfig, config)
        return {"candidates": config.candidates, "encoded_proposals": config.encoded_proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: SELSAConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features after the first layer, before any ReLU."""
        first = self.fcs[0]
        return self.encode_frame(image, config.candidates, config.encoded_proposals, first, clock or NullClock())

    def support(self, frame: FrameFeatures) -> Lent:
        """Keys and values of all proposals given (take ``frame.top(K)``) for every module."""
        features, lent = frame.features, []
        for index, module in enumerate(self._modules_in_order):
            if index:
                features = self.fcs[index](F.relu(features))
            lent.append(module.lend(features))
        return Lent(tuple(keys for keys, _ in lent), tuple(values for _, values in lent))

    # ---- a frame among others

    @property
    def _modules_in_order(self) -> list[SemanticAggregation]:
        return [cast(SemanticAggregation, module) for module in self.aggregators]

    def gather(self, supports: Sequence[Lent]) -> Lent:
        if supports:
            return Lent.concatenate(supports)
        width = self.config.fc_channels // self.config.heads
        nothing = (torch.zeros(self.config.heads, 0, width, device=self.device),) * self.config.modules
        return Lent(nothing, nothing)

    def relate(self, frame: FrameFeatures, pool: Lent, config: SELSAConfig) -> Tensor:
        """(n, D) features of a frame's proposals, ready for the predictor, at test."""
        if config.own_frame:
            pool = self.gather([pool, self.support(frame.top(config.K))])
        return self.aggregate(frame.features, pool)

    def aggregate(self, features: Tensor, pool: Lent) -> Tensor:
        """(n, D) features of proposals that saw the pool, from those after the first layer."""
        for index, module in enumerate(self._modules_in_order):
            if index:
                features = self.fcs[index](features)
            features = F.relu(features + module.attend(features, pool.keys[index], pool.values[index]))
        return features

    def answer_stream(self, config: SELSAConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return sequence_stream(self, config, clock, answer)

    @torch.inference_mode()
    def detect_in_video(self, images: Sequence[Image], reference: int, config: SELSAConfig) -> Detections:
        """Clip-wise inference: detections of one frame of a whole video, from scratch. A stream must agree."""
        return detect_from_scratch(self, [self.encode(image, config) for image in images], reference, config)

    # ---- training

    def related_samples(
        self,
        c5: Tensor,
        batch: Batch,
        proposals: Sequence[Proposals],
        samples: Sequence[RoiSamples],
        owner: Sequence[int],
    ) -> Tensor:
        """The sampled RoIs attend to the K_train best of each of their clip's support frames, not to each other."""
        lent = [p.top(self.config.K_train) for p in proposals[len(samples) :]]
        boxes = [s.boxes for s in samples] + [p.boxes for p in lent]
        features = torch.split(self.fcs[0](self.pool(c5, boxes)), [len(b) for b in boxes])
        frames = lent_frames(lent, features[len(samples) :], batch, first=len(samples))
        supports = [self.support(frame) for frame in frames]
        owners = owner[len(samples) :]
        pools = [self.gather([s for s, o in zip(supports, owners, strict=True) if o == i]) for i in range(len(samples))]
        return torch.cat([self.aggregate(query, pool) for query, pool in zip(features, pools, strict=False)])


SPEC = relation_method(
    "selsa",
    SELSA,
    SELSAConfig,
    summary="SELSA: proposals aggregate those of frames from the whole video",
    paper="Wu et al., Sequence Level Semantics Aggregation for Video Object Detection, ICCV 2019",
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
)
