"""RDN's basic stage: proposals of the reference frame attend to those of its neighbours (Deng et al. 2019, Sec. 3.3).

Symbols: T support frames a side, K proposals a support frame, N_b relation modules, R the reference frame's proposals,
S the pool of supportive proposals (the reference frame's own K best among them). Eq. 3-4, with h = ReLU(fc)::

    S = h_1(RoI);    R_1 = f_1(h_1(RoI), S);    R_n = f_n(h_n(R_{n-1}), S);    f(R, S) = R + attention(R, S)

All modules attend to the same S, so the keys and values of a support frame are made once. The published code agrees
(``relation_order = pre``); ``post`` is the order of Relation Networks, where ReLU follows the addition.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, Detections, Image, JointStream
from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.detection.clip_training import ClipTrainedDetector, lent_frames
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.products import products_are_exact
from vodbench_methods.detection.records import Batch, FrameFeatures, Proposals, RoiSamples
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, inference_config
from vodbench_methods.rdn.config import RDNBasicConfig
from vodbench_methods.rdn.records import Pool, Support, consecutive, spread
from vodbench_methods.rdn.refinement import Served
from vodbench_methods.rdn.stream import RDNJointStream, RDNStream, detect_window
from vodbench_methods.relation import Floor, KeyValues, ObjectRelation, SharedGeometry


class RDNBasic(ClipTrainedDetector):
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
        lengths = [len(s) for s in supports]
        return Pool(kvs, spread(copies, lengths, self.device), consecutive(lengths))

    def relate(self, features: Tensor, boxes: Tensor, pool: Pool) -> Tensor:
        """(Q, D) features of Q proposals, ready for the predictor, from those that ``first`` gave.

        A proposal's way through all modules does not depend on the others', so rows go through in chunks and one
        geometry pass serves all modules.
        """
        if not self.config.N_b:
            return F.relu(features)
        return self._basic(features, boxes, pool, self.config.N_b)

    def _basic(self, features: Tensor, boxes: Tensor, pool: Pool, modules: int) -> Tensor:
        """(Q, D) features after so many basic modules, one at least."""
        geometry = SharedGeometry(self.unrefined_readers[:modules], pool.kvs[0].boxes)
        size = geometry.rows_per_chunk
        parts = zip(torch.split(features, size), torch.split(boxes, size), strict=True)
        return torch.cat([self._relate_rows(rows, geometry(places), pool) for rows, places in parts])

    def _relate_rows(self, features: Tensor, geometry: Sequence[Tensor], pool: Pool) -> Tensor:
        for index, (module, weights) in enumerate(zip(self.unrefined_readers, geometry, strict=False)):
            if index:
                features = self.between(index, features)
            features = self.added(features, module.attend_weighted(features, weights, pool.kvs[index], pool.copies))
        return features

    def relation_to(self, frame: FrameFeatures, pool: Pool, keys: slice) -> Tensor:
        """(Q, k) attention of a frame's Q proposals on these keys of its pool: last basic module, mean over heads.

        Each row is a part of a softmax over the whole pool. Box linking with relations takes it (Eq. 8).
        """
        before = self.config.N_b - 1
        module, kv = self.unrefined_readers[before], pool.kvs[before]
        features = frame.features
        if before:
            features = self._basic(features, frame.boxes, pool, before)
            features = self.between(before, features)
        return module.weights(features, frame.boxes, kv, pool.copies)[..., keys].mean(dim=0)

    @property
    def distiller(self) -> ObjectRelation | None:
        """The module that attends to refined proposals, where there is an advanced stage."""
        return None

    def refinements(self, windows: Sequence[Sequence[RDNBasicConfig]]) -> list[list[Served]]:
        """For each window, which is of configurations that agree in T, K and video ends: what refines its pools.

        Nothing without an advanced stage.
        """
        return [[] for _ in windows]

    def between(self, module: int, features: Tensor) -> Tensor:
        """h_n of the features that basic module ``module`` - 1 gave: what the queries of the next are made of."""
        return self._activated(self.fcs[module](features))

    def added(self, features: Tensor, attention: Tensor) -> Tensor:
        """f of Eq. 4: features with what they attended to."""
        return features + attention if self.config.relation_order == "pre" else F.relu(features + attention)

    # ---- streams

    def answer_stream(self, config: RDNBasicConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return RDNStream(self, config, clock, answer)

    def joins(self, config: MethodConfig) -> Hashable | None:
        """See ``vodbench.spec.JointMethod``: without linking, and where products are exact, all that see the same
        reference proposals."""
        own = cast(RDNBasicConfig, config)
        exact = products_are_exact(own.fc_channels // own.heads, self.device) and own.linking == "none"
        return (own.candidates, own.encoded_proposals, own.proposals) if exact else None

    def joint_stream(self, configs: Sequence[MethodConfig], clock: Clock | None = None) -> JointStream:
        own = [inference_config(self.config, config) for config in configs]
        return RDNJointStream(self, own, clock or NullClock())

    def detect_in_video(self, images: Sequence[Image], reference: int, config: RDNBasicConfig) -> Detections:
        """Clip-wise inference: detections of one frame of a whole video, from scratch. A stream must agree."""
        return detect_window(self, [self.encode(image, config) for image in images], reference, config)

    # ---- training

    def related_samples(
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
        supports = [self.support(frame) for frame in lent_frames(lent, features, batch)]
        related = []
        for clip, (sample, query) in enumerate(zip(samples, features[len(lent) :], strict=True)):
            pool = self.gather([s for s, i in zip(supports, owner, strict=True) if i == clip], None, config)
            related.append(self.relate(query, sample.boxes, pool))
        return torch.cat(related)
