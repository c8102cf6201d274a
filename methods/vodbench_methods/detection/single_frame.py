"""Detectors that answer to every frame by itself; what they make of a map serves methods that propagate maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Image, Stage
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.detection.records import Batch, FrameFeatures, Target
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, SingleFrameStream
from vodbench_methods.detection.two_stage import TwoStageDetector


class SingleFrameDetector(TwoStageDetector):
    """Trained on single frames; a subclass says how pooled RoIs become RoI features."""

    def roi_features(self, pooled: Tensor) -> Tensor:
        """(n, pooled_channels) -> (n, D) features, ready for the predictor."""
        raise NotImplementedError

    # ---- training

    def begin_stage(self, stage: Stage) -> None:
        """There is one stage, from the backbone's published weights; ``frozen_stages`` are fixed since construction."""
        self.load_backbone()
        self.train()

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """RPN and head losses of the clips' reference frames."""
        frames = [clip.reference for clip in clips]
        batch = self.preprocess([frame.image for frame in frames], [clip.flip for clip in clips])
        return self.losses_from(self.extract(batch), batch, self.targets(frames, batch))

    def losses_from(self, feature_map: Tensor, batch: Batch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The same from the (N, C, h, w) maps of the images of ``batch``, their own or propagated ones."""
        rpn_map, roi_map = self.maps(feature_map)
        output = self.rpn(rpn_map)
        samples = self.sample_rois(self.propose_for_training(output, batch.sizes), targets)
        features = self.roi_features(self.pool(roi_map, [s.boxes for s in samples]))
        return {**self.rpn.losses(output, batch.sizes, targets), **self.head_losses(features, samples)}

    # ---- inference

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        assert isinstance(config, DetectorConfig)
        return {"candidates": config.candidates, "proposals": config.proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: DetectorConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features; ``config`` may differ from the method's own in inference knobs."""
        return self.encode_frame(image, config.candidates, config.proposals, self.roi_features, clock or NullClock())

    def frame_from(self, feature_map: Tensor, batch: Batch, config: DetectorConfig, clock: Clock) -> FrameFeatures:
        """``encode`` from the (1, C, h, w) map of the one image of ``batch``, its own or a propagated one."""
        return self.encode_map(feature_map, batch, config.candidates, config.proposals, self.roi_features, clock)

    def answer_stream(self, config: Any, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return SingleFrameStream(self, config, clock, answer)
