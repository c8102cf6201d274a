"""Single-frame Faster R-CNN (Ren et al. 2015) on "DC5" features: the baseline of RDN and HVR-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Image, MethodSpec, Stage
from vodbench_methods.detection.box_head import BoxHead
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.config import SMALL, TINY, DetectorConfig
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found
from vodbench_methods.detection.two_stage import TwoStageDetector


class FasterRCNN(TwoStageDetector):
    """Every frame by itself."""

    config: DetectorConfig

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.head = BoxHead(self.pooled_channels, config.fc_channels, config.fc_layers)

    def begin_stage(self, stage: Stage) -> None:
        """There is one stage, from the backbone's published weights; ``frozen_stages`` are fixed since construction."""
        self.load_backbone()
        self.train()

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """RPN and head losses of the clips' reference frames."""
        frames = [clip.reference for clip in clips]
        batch = self.preprocess([frame.image for frame in frames], [clip.flip for clip in clips])
        targets = self.targets(frames, batch)
        rpn_map, c5 = self.features(batch)
        output = self.rpn(rpn_map)
        samples = self.sample_rois(self.propose_for_training(output, batch.sizes), targets)
        features = self.head(self.pool(c5, [s.boxes for s in samples]))
        return {**self.rpn.losses(output, batch.sizes, targets), **self.head_losses(features, samples)}

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        assert isinstance(config, DetectorConfig)
        return {"candidates": config.candidates, "proposals": config.proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: DetectorConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features; ``config`` may differ from the method's own in inference knobs."""
        return self.encode_frame(image, config.candidates, config.proposals, self.head, clock or NullClock())

    def answer_stream(self, config: DetectorConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return FasterRCNNStream(self, config, clock, answer)


class FasterRCNNStream(Generic[Found]):
    """The answer to a frame is final at once."""

    def __init__(self, detector: FasterRCNN, config: DetectorConfig, clock: Clock, answer: Answer[Found]) -> None:
        self._detector, self._config, self._clock, self._answer = detector, config, clock, answer

    @torch.inference_mode()
    def push(self, image: Image) -> list[Found]:
        return self.push_encoded(self._detector.encode(image, self._config, self._clock))

    @torch.inference_mode()
    def push_encoded(self, encoded: FrameFeatures) -> list[Found]:
        """As ``push`` for a frame that ``encode`` has seen already (possibly for another stream)."""
        with self._clock.stage("post"):
            return [self._answer(encoded, encoded.features)]

    def close(self) -> list[Found]:
        return []


def _build(config: MethodConfig, num_classes: int) -> FasterRCNN:
    assert isinstance(config, DetectorConfig)
    return FasterRCNN(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, DetectorConfig)
    return (
        Stage(
            name="detector",
            method=SPEC.name,
            config=config,
            clips=config.single_frames(),
            schedule=config.schedule(),
        ),
    )


def latency(config: MethodConfig) -> int | None:
    """The declared latency of every two-stage method."""
    assert isinstance(config, DetectorConfig)
    return config.latency


SPEC = MethodSpec(
    name="faster-rcnn",
    summary="Faster R-CNN on every frame by itself: the single-frame baseline",
    paper="Ren et al., Faster R-CNN, NeurIPS 2015; as the baseline of Deng et al., RDN, ICCV 2019",
    config=DetectorConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
