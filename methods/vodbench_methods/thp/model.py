"""THP: features propagated from key frames, corrected where propagation fails, and gathered over key frames.

    F_i  = N_feat(I_i) where U = 1,         W(F_k)  elsewhere, layer by layer (see ``context``)
    F'_i = G(W(F'_k), F_i) where U = 1,     W(F'_k) elsewhere
    y_i  = N_task(F'_i)

for frame i and the key frame k before it. U is 1 on a key frame and [Q <= 0] on others, Q from the flow network; W
warps and scales as in Deep Feature Flow; G is the recursive aggregation. U = 0 is plain propagation. In training, U is
forced to 0 and to 1 in a third of the clips each, so that pairs of frames teach all of it (F'_k = F_k in a pair).

Where nothing is computed there is nothing new to gather: the paper does not say what G does there, and here it is left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Detections, Image, Stream
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, inference_config
from vodbench_methods.flow import Convention, FlowOutput
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.thp.aggregation import RecursiveAggregation
from vodbench_methods.thp.config import THPConfig
from vodbench_methods.thp.context import KeptMaps, KeyFrameContext
from vodbench_methods.thp.masks import update_mask, with_mask_gradient
from vodbench_methods.thp.oracle import OracleStream
from vodbench_methods.thp.partial import PartialExtractor
from vodbench_methods.thp.reference import detect_by_definition
from vodbench_methods.thp.stream import UnifiedStream


class THP(FlowDetector):
    """``detector``, ``flow`` (which also predicts Q) and ``aggregation``."""

    config: THPConfig
    predicts_update = True

    def __init__(self, config: THPConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.aggregation = RecursiveAggregation(
            self.detector.map_channels, config.embedding_hidden, config.embedding_channels
        )
        self.extractor = PartialExtractor(self.detector)

    # ---- one frame after another

    def partly_updated(
        self,
        batch: Batch,
        mask: Tensor,
        key_map: Tensor,
        kept: KeptMaps,
        output: FlowOutput,
        *,
        everywhere: bool,
    ) -> Tensor:
        """F of the images of ``batch``: computed anew where ``mask`` (N, 1, h, w) is 1, else propagated.

        Args:
            key_map, kept: F_k and its earlier layers, as ``extractor.whole`` gives them.
            everywhere: compute all and mask it, with gradients; false: only what the mask asks for, of one image.
        """
        convention = cast(Convention, self.config.warp)
        context = KeyFrameContext(kept, output.flow, self.config.feature_stride, convention)
        update = self.extractor.masked if everywhere else self.extractor.updated
        return update(batch, mask, self.propagate(key_map, output), context)

    # ---- training

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The detector's losses on F' of the reference frames, and the share of them that was computed anew.

        The paper's penalty is a sum over positions; a mean does not depend on the size of the image.
        """
        batch, key = self.paired(clips)
        output = self.flow_between(batch, key)
        mask = self.training_mask(cast(Tensor, output.update))
        key_map, kept = self.extractor.whole(key)
        own = self.partly_updated(batch, mask.detach(), key_map, kept, output, everywhere=True)
        earlier = self.propagate(key_map, output)
        with torch.no_grad():
            anew = self.aggregation(earlier, self.detector.extract(batch))
        gathered = torch.where(mask > 0, self.aggregation(earlier, own), earlier)
        maps = with_mask_gradient(gathered, mask, anew, earlier)
        maps = self.own_where_key(clips, key_map, maps)  # as the first frame of a stream
        targets = self.detector.targets([clip.reference for clip in clips], batch)
        losses = self.detector.losses_from(maps, batch, targets)
        return {**losses, "update": self.config.update_weight * mask.mean()}

    def training_mask(self, logits: Tensor) -> Tensor:
        """U, or all 0 or all 1 in ``forced_share`` of the clips."""
        mask = update_mask(logits)
        draw = torch.rand(len(mask), 1, 1, 1).to(mask.device)
        half = self.config.forced_share / 2
        return mask.where(draw >= 2 * half, (draw < half).to(mask.dtype))

    # ---- inference

    def scheduled_stream(
        self, keys: Iterable[bool], config: MethodConfig | None = None, clock: Clock | None = None
    ) -> Stream:
        """As ``stream`` for a video whose key frames are known: one answer for each frame, the first is a key frame."""
        own: THPConfig = inference_config(self.config, config)
        clock = clock or NullClock()
        return self.detector.linked(own, clock, lambda answer: UnifiedStream(self, own, clock, answer, keys=iter(keys)))

    def guided_stream(self, config: THPConfig, clock: Clock | None = None) -> OracleStream:
        own: THPConfig = inference_config(self.config, config)
        return OracleStream(self, own, clock)

    def answer_stream(self, config: THPConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        if config.guided:
            raise UserError(
                "keys = 'oracle' chooses key frames by the annotations, which a video by itself has not; give "
                "'adaptive' or 'interval', or evaluate on annotated snippets"
            )
        return UnifiedStream(self, config, clock, answer)

    def detect_in_video(self, images: Sequence[Image], reference: int, config: Any) -> Detections:
        """Frame ``reference`` computed from scratch, for frames of one size."""
        return detect_by_definition(self, images, reference, config)
