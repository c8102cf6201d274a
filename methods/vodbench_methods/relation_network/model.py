"""Relation Networks (Hu et al., CVPR 2018, Sec. 4.2): proposals of one frame attend to each other.

With L fully connected layers and r_1 = .. = r_L = 1 module after each (f is ``ObjectRelation``; Eq. 6, 9)::

    x_l = ReLU( z_l + f_l(z_l, z_l) ),   z_l = fc_l(x_{l-1}),   x_0 = RoI             ("post")
    x_l = z_l + f_l(z_l, z_l),           z_l = ReLU(fc_l(x_{l-1}))                    ("pre")

At test all proposals of the frame attend to all. In training the RoIs that the loss looks at attend to each other, as
in the paper: annotated boxes among them, objects in a share that is not the test's (``train_keys = sampled``). With
``proposals`` the frame's proposals attend to each other as at test, and the sampled RoIs to them. This is the second
row of RDN's Table 3: relations without any other frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clock, Image
from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.detection.clip_training import ClipTrainedDetector
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch, FrameFeatures, Proposals, RoiSamples
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, SingleFrameStream
from vodbench_methods.detection.warm_start import relation_method
from vodbench_methods.relation import Floor, ObjectRelation, SharedGeometry
from vodbench_methods.relation_network.config import SMALL, TINY, RelationNetworkConfig


class RelationNetwork(ClipTrainedDetector):
    """Faster R-CNN with an object relation module after each fully connected layer of its head."""

    config: RelationNetworkConfig

    def __init__(self, config: RelationNetworkConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        widths = [self.pooled_channels] + [config.fc_channels] * (config.fc_layers - 1)
        floor = cast(Floor, config.relation_floor)
        self.fcs = nn.ModuleList(fully_connected(width, config.fc_channels) for width in widths)
        self.relations = nn.ModuleList(ObjectRelation(config.fc_channels, config.heads, floor) for _ in widths)

    # ---- inference

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        assert isinstance(config, RelationNetworkConfig)
        return {"candidates": config.candidates, "proposals": config.proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: RelationNetworkConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features after the first layer, before any relation."""
        return self.encode_frame(image, config.candidates, config.proposals, self.first, clock or NullClock())

    def first(self, pooled: Tensor) -> Tensor:
        """(n, D) proposal features z_1 of (n, pooled_channels) RoIs."""
        return self._activated(self.fcs[0](pooled))

    def answer_stream(self, config: RelationNetworkConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        def related(frame: FrameFeatures) -> Tensor:
            return self.relate(frame.features, frame.boxes)

        return SingleFrameStream(self, config, clock, answer, related)

    # ---- relations, the same in training and at test

    def relate(self, features: Tensor, boxes: Tensor, first_key: int = 0) -> Tensor:
        """(n, D) features x_L from z_1 of (n, 4) boxes of one frame; rows ``first_key`` and later are attended to."""
        relations = [cast(ObjectRelation, module) for module in self.relations]
        keys = boxes[first_key:]
        geometry = SharedGeometry(relations, keys).of_all(boxes)
        for index, (module, weights) in enumerate(zip(relations, geometry, strict=True)):
            if index:
                features = self._activated(self.fcs[index](features))
            kv = module.project_keys(features[first_key:], keys)
            features = self._added(features, module.attend_weighted(features, weights, kv))
        return features

    def _activated(self, features: Tensor) -> Tensor:
        return F.relu(features) if self.config.relation_order == "pre" else features

    def _added(self, features: Tensor, attention: Tensor) -> Tensor:
        return features + attention if self.config.relation_order == "pre" else F.relu(features + attention)

    # ---- training

    def related_samples(
        self,
        c5: Tensor,
        batch: Batch,
        proposals: Sequence[Proposals],
        samples: Sequence[RoiSamples],
        owner: Sequence[int],
    ) -> Tensor:
        """The sampled RoIs after the relations of their own frame; see ``train_keys`` for whom they attend to."""
        own = [s.boxes for s in samples]
        others = [p.boxes for p in proposals] if self.config.train_keys == "proposals" else [b[:0] for b in own]
        boxes = [torch.cat(pair) for pair in zip(own, others, strict=True)]
        features = torch.split(self.first(self.pool(c5, boxes)), [len(b) for b in boxes])
        related = []
        for z, places, count in zip(features, boxes, map(len, own), strict=True):
            first_key = count if self.config.train_keys == "proposals" else 0
            related.append(self.relate(z, places, first_key)[:count])
        return torch.cat(related)


SPEC = relation_method(
    "relation-network",
    RelationNetwork,
    RelationNetworkConfig,
    summary="Relation Networks: proposals of one frame attend to each other",
    paper="Hu et al., Relation Networks for Object Detection, CVPR 2018; as in RDN's Table 3",
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
)
