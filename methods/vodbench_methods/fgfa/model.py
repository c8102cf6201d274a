"""FGFA: the map of the reference frame is a weighted sum of the maps of all frames around it, warped to it.

The published code differs from the paper where it is used, and so does this module by default:

- training, and the paper's Eq. 3: embeddings are computed from warped maps. Test: a frame's embedding is computed once
  and warped with its map (``embeddings = "cached"``). The two are not equal, the embedding has ReLUs and a 3x3
  convolution; ``"recomputed"`` tests as trained, and costs 2T + 1 embeddings a frame instead of one.
- training: weights compare the supports with the reference's own map, which is not part of the sum. Test: it is, warped
  by the flow from the frame to itself, and the comparison is with that (``self_flow``).
- a step runs 2T + 1 pairs through the flow network, in one batch; nothing of a pair outlives the step, since its
  reference changes. Backbone maps (and embeddings) are valid for as long as their frame is in the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Detections, Image
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found
from vodbench_methods.fgfa.aggregation import EmbeddingNetwork, Warped, aggregate
from vodbench_methods.fgfa.config import SMALL, TINY, FGFAConfig
from vodbench_methods.fgfa.records import EncodedFrame
from vodbench_methods.fgfa.stream import FGFAStream, answer_among, of_one_size
from vodbench_methods.flow import Convention, FlowOutput, warp
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.propagation.optical_flow import propagation_method
from vodbench_methods.sequence import window


class FGFA(FlowDetector):
    """``detector``, ``flow`` and ``embedding``; every weight belongs to one of them."""

    config: FGFAConfig

    def __init__(self, config: FGFAConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.embedding = EmbeddingNetwork(
            self.detector.map_channels, config.embedding_channels, config.embedding_outputs
        )

    # ---- a frame by itself

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        assert isinstance(config, FGFAConfig)
        return {"embeddings": config.embeddings}

    @torch.inference_mode()
    def encode(self, image: Image, config: FGFAConfig, clock: Clock | None = None) -> EncodedFrame:
        """The frame's map, and its embedding where that is warped with it."""
        clock = clock or NullClock()
        with clock.stage("preprocess"):
            batch = self.detector.preprocess([image])
        with clock.stage("backbone"):
            maps = self.detector.extract(batch)
        if config.embeddings == "cached":
            with clock.stage("embedding"):
                maps = torch.cat((maps, self.embedding(maps)), dim=1)
        if maps.device.type == "cpu":  # warped 2T + 1 times, several times faster in this layout
            maps = maps.contiguous(memory_format=torch.channels_last)
        return EncodedFrame(batch, image.shape, maps)

    # ---- a frame among others

    def aggregated(
        self, frames: Sequence[EncodedFrame], copies: Sequence[int], reference: int, config: FGFAConfig, clock: Clock
    ) -> Tensor:
        """(1, C, h, w) map of ``frames[reference]``, aggregated from all ``frames``; each counts ``copies`` times."""
        moved = [place for place in range(len(frames)) if place != reference or config.self_flow]
        with clock.stage("flow"):
            flows = dict(zip(moved, self._flows(frames[reference], [frames[place] for place in moved]), strict=True))
        with clock.stage("aggregation"):
            # The reference frame first: the others are compared with what becomes of it.
            order = sorted(range(len(frames)), key=lambda place: place != reference)
            seen = (self._seen(frames[place], flows.get(place), copies[place]) for place in order)
            own = next(seen)
            return aggregate(own.embedding, chain((own,), seen)).contiguous()

    def _flows(self, reference: EncodedFrame, frames: Sequence[EncodedFrame]) -> Iterator[FlowOutput]:
        """From the reference frame to each of ``frames``, whose pairs go through the network together."""
        if not frames:
            return
        output = self.flow(self.colours(reference.batch), torch.cat([self.colours(frame.batch) for frame in frames]))
        for place in range(len(frames)):
            scale = None if output.scale is None else output.scale[place : place + 1]
            yield FlowOutput(output.flow[place : place + 1], scale, None)

    def _seen(self, frame: EncodedFrame, output: FlowOutput | None, copies: int) -> Warped:
        """``frame`` as the reference frame sees it; without a flow it is the reference frame, as it is."""
        maps, channels = frame.maps, self.detector.map_channels
        if output is not None:
            maps = warp(maps, output.flow, cast(Convention, self.config.warp))
        feature_map = maps[:, :channels]
        if output is not None and output.scale is not None:
            feature_map = feature_map * output.scale
        cached = maps.shape[1] > channels
        return Warped(feature_map, maps[:, channels:] if cached else self.embedding(feature_map), copies)

    # ---- training

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The detector's losses of the clips' reference frames, on maps aggregated from their support frames."""
        count, supports = len(clips), len(clips[0].supports)
        frames = [clip.reference for clip in clips]
        frames += [clip.supports[place] for place in range(supports) for clip in clips]
        batch = self.detector.preprocess([f.image for f in frames], [clip.flip for clip in clips] * (1 + supports))
        own, others = self.detector.extract(batch).tensor_split([count])
        colours = self.colours(batch)
        warped = self.propagate(others, self.flow(colours[:count].repeat(supports, 1, 1, 1), colours[count:]))
        reference, *embeddings = self.embedding(torch.cat((own, warped))).chunk(1 + supports)
        aggregated = aggregate(reference, map(Warped, warped.chunk(supports), embeddings))
        references = batch.part(0, count)
        targets = self.detector.targets(frames[:count], references)
        return self.detector.losses_from(aggregated, references, targets)

    # ---- inference

    def answer_stream(self, config: FGFAConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return FGFAStream(self, config, clock, answer)

    @torch.inference_mode()
    def detect_in_video(self, images: Sequence[Image], reference: int, config: FGFAConfig) -> Detections:
        """Detections of one frame of a whole video, from scratch. A stream must agree."""
        video = of_one_size(images, reference)
        indices, copies = window(reference - video.start, len(video), config)
        frames = [self.encode(images[video[index]], config) for index in indices]
        place = reference - video.start - indices.start

        def detected(frame: FrameFeatures, features: Tensor, relation: Tensor | None = None) -> Detections:
            return self.detector.detections(frame, features, config)

        return answer_among(self, frames, copies, place, config, NullClock(), detected)


SPEC = propagation_method(
    "fgfa",
    FGFA,
    FGFAConfig,
    summary="Flow-guided feature aggregation: every frame sees the maps of those around it, warped to it",
    paper="Zhu et al., Flow-Guided Feature Aggregation for Video Object Detection, ICCV 2017",
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
)
