"""RDN's basic stage: proposals of the reference frame attend to those of its neighbours (Deng et al. 2019, Sec. 3.3).

Symbols: T support frames a side, K proposals a support frame, N_b relation modules, R the reference frame's proposals,
S the pool of supportive proposals (the reference frame's own K best among them). Eq. 3-4, with h = ReLU(fc)::

    S = h_1(RoI);    R_1 = f_1(h_1(RoI), S);    R_n = f_n(h_n(R_{n-1}), S);    f(R, S) = R + attention(R, S)

All modules attend to the same S, so the keys and values of a support frame are made once. The published code agrees
(``relation_order = pre``); ``post`` is the order of Relation Networks, where ReLU follows the addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Detections, Image, Stage, Stream
from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch, FrameFeatures, Proposals, RoiSamples
from vodbench_methods.detection.rpn import RpnOutput
from vodbench_methods.detection.streaming import inference_config
from vodbench_methods.detection.two_stage import TwoStageDetector
from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.memory import Memory, PlainMemory
from vodbench_methods.rdn.records import Pool, Support, spread
from vodbench_methods.rdn.stream import RDNStream, detect_window
from vodbench_methods.relation import Floor, KeyValues, ObjectRelation, SharedGeometry


class RDNBasic(TwoStageDetector):
    """Faster R-CNN with N_b relation modules between proposals of neighbouring frames.

    ``encode`` looks at a frame by itself, ``support`` is what it lends, ``gather`` makes a window's pool and ``relate``
    lets proposals attend to it. Training and streaming share the last three, and ``first`` within ``encode``.
    """

    config: RDNBasicConfig

    def __init__(self, config: RDNBasicConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        widths = [self.pooled_channels] + [config.fc_channels] * (config.N_b - 1)
        self.fcs = nn.ModuleList(fully_connected(width, config.fc_channels) for width in widths)
        self.relations = nn.ModuleList(self._new_relation() for _ in range(config.N_b))
        self._frozen = False

    def _new_relation(self) -> ObjectRelation:
        config = self.config
        return ObjectRelation(config.fc_channels, config.heads, cast(Floor, config.relation_floor))

    # ---- a frame by itself

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        config = cast(RDNBasicConfig, config)
        return {"candidates": config.candidates, "encoded_proposals": config.encoded_proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: RDNBasicConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features; ``config`` may differ from the method's own in inference knobs."""
        return self.encode_frame(image, config.candidates, config.encoded_proposals, self.first, clock or NullClock())

    def first(self, pooled: Tensor) -> Tensor:
        """(n, D) proposal features of (n, pooled_channels) RoIs: h_1, for queries and supports alike."""
        return self._activated(self.fcs[0](pooled))

    def _activated(self, features: Tensor) -> Tensor:
        return F.relu(features) if self.config.relation_order == "pre" else features

    def _added(self, features: Tensor, attention: Tensor) -> Tensor:
        return features + attention if self.config.relation_order == "pre" else F.relu(features + attention)

    # ---- a frame in its window

    @property
    def unrefined_readers(self) -> list[ObjectRelation]:
        """The modules that attend to proposals as their frames lend them."""
        return [cast(ObjectRelation, module) for module in self.relations]

    def support(self, frame: FrameFeatures) -> Support:
        """What a frame lends to a pool: all proposals given (take ``frame.top(K)``), with keys and values."""
        kvs = tuple(module.project_keys(frame.features, frame.boxes) for module in self.unrefined_readers)
        return Support(frame.boxes, frame.objectness, frame.features, kvs)

    def gather(self, supports: Sequence[Support], copies: Sequence[int] | None, config: RDNBasicConfig) -> Pool:
        """The pool of a window's supports; support i counts ``copies[i]`` times (once when None)."""
        return self.gather_unrefined(supports, copies)

    def gather_unrefined(self, supports: Sequence[Support], copies: Sequence[int] | None) -> Pool:
        kvs = tuple(
            KeyValues.concatenate([s.kvs[module] for s in supports]) for module in range(len(self.unrefined_readers))
        )
        return Pool(kvs, spread(copies, [len(s) for s in supports], self.device))

    def relate(self, features: Tensor, boxes: Tensor, pool: Pool) -> Tensor:
        """(Q, D) features of Q proposals, ready for the predictor, from those that ``first`` gave.

        A proposal's way through all modules does not depend on the others', so rows go through in chunks and one
        geometry pass serves all modules.
        """
        if not self.config.N_b:
            return F.relu(features)
        geometry = SharedGeometry(self.unrefined_readers[: self.config.N_b], pool.kvs[0].boxes)
        size = geometry.rows_per_chunk
        parts = zip(torch.split(features, size), torch.split(boxes, size), strict=True)
        return torch.cat([self._relate_rows(rows, geometry(places), pool) for rows, places in parts])

    def _relate_rows(self, features: Tensor, geometry: Sequence[Tensor], pool: Pool) -> Tensor:
        for index, (module, weights) in enumerate(zip(self.unrefined_readers, geometry, strict=False)):
            if index:
                features = self._activated(self.fcs[index](features))
            features = self._added(features, module.attend_weighted(features, weights, pool.kvs[index], pool.copies))
        return features

    def detections(self, frame: FrameFeatures, features: Tensor, config: RDNBasicConfig) -> Detections:
        """Detections in original pixels from the related features of ``frame``'s proposals."""
        return self.to_original(self.select(features, frame.boxes, frame.size, config), frame.resized)

    def memory(self, config: RDNBasicConfig) -> Memory:
        """A fresh sliding buffer for a stream."""
        return PlainMemory(lambda supports, copies: self.gather(supports, copies, config))

    def stream(self, config: MethodConfig | None = None, clock: Clock | None = None) -> Stream:
        return RDNStream(self, inference_config(self.config, config), clock or NullClock())

    def detect_in_video(self, images: Sequence[Image], reference: int, config: RDNBasicConfig) -> Detections:
        """Clip-wise inference: detections of one frame of a whole video, from scratch. A stream must agree."""
        return detect_window(self, [self.encode(image, config) for image in images], reference, config)

    # ---- training

    def begin_stage(self, stage: Stage) -> None:
        """Freeze backbone and RPN where the configuration says so; everything else is trained."""
        self.load_backbone()
        self._frozen = self.config.freeze_detector
        if self._frozen:
            for part in self._detector_parts():
                part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> RDNBasic:
        """A frozen detector stays in inference mode: its batch norm must not move either."""
        super().train(mode)
        if self._frozen:
            for part in self._detector_parts():
                part.eval()
        return self

    def _detector_parts(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.reduction, self.rpn) if part is not None]

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """RPN losses (unless frozen) and head losses of the reference frames, each related to its clip."""
        references = [clip.reference for clip in clips]
        frames = references + [frame for clip in clips for frame in clip.supports]
        owner = [*range(len(clips)), *(i for i, clip in enumerate(clips) for _ in clip.supports)]
        batch = self.preprocess([f.image for f in frames], [clips[i].flip for i in owner])
        targets = self.targets(frames, batch)[: len(clips)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            c4, c5 = self.features(batch)
            output = self.rpn(c4)
        proposals = self.propose_for_training(output, batch.sizes)
        samples = self.sample_rois(proposals[: len(clips)], targets)
        features = self._related_samples(c5, batch, proposals, samples, owner)
        losses = self.head_losses(features, samples)
        if not self._frozen:
            of_references = RpnOutput(
                output.logits[: len(clips)], output.deltas[: len(clips)], output.anchors, output.shape
            )
            losses |= self.rpn.losses(of_references, batch.sizes[: len(clips)], targets)
        return losses

    def _related_samples(
        self,
        c5: Tensor,
        batch: Batch,
        proposals: Sequence[Proposals],
        samples: Sequence[RoiSamples],
        owner: Sequence[int],
    ) -> Tensor:
        """(sum n, D) related features of the sampled RoIs; image i lends its K_train best to clip ``owner[i]``."""
        config = self.config.in_training()
        lent = [p.top(config.K) for p in proposals]
        boxes = [p.boxes for p in lent] + [s.boxes for s in samples]
        maps = torch.cat([c5, c5[: len(samples)]])
        features = torch.split(self.first(self.pool(maps, boxes)), [len(b) for b in boxes])
        supports = [
            self.support(FrameFeatures(p.boxes, p.objectness, f, size, resized))
            for p, f, size, resized in zip(lent, features, batch.sizes, batch.resized, strict=False)
        ]
        related = []
        for clip, (sample, query) in enumerate(zip(samples, features[len(lent) :], strict=True)):
            pool = self.gather([s for s, i in zip(supports, owner, strict=True) if i == clip], None, config)
            related.append(self.relate(query, sample.boxes, pool))
        return torch.cat(related)

    # ---- weights

    def load_initial(self, weights: Mapping[str, Tensor]) -> None:
        """From a single-frame detector, or an RDN of an earlier stage.

        The detector's fully connected layers become this head's, in order. A square layer that the weights lack starts
        as the identity, so that training begins near the answers of what it came from; relations keep their start.
        """
        renamed = {name.replace("head.fcs.", "fcs.", 1): weight for name, weight in weights.items()}
        super().load_initial(renamed)
        for name, layer in self._square_layers().items():
            if f"{name}.weight" not in renamed:
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)

    def _square_layers(self) -> dict[str, nn.Linear]:
        """Fully connected layers from proposal features to proposal features, by name."""
        return {f"fcs.{i}": cast(nn.Linear, layer) for i, layer in enumerate(self.fcs) if i}
