"""Single-frame Faster R-CNN (Ren et al. 2015) on "DC5" features: the baseline of RDN and HVR-Net."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from vodbench.knobs import MethodConfig
from vodbench.spec import MethodSpec, Stage
from vodbench_methods.detection.box_head import BoxHead
from vodbench_methods.detection.config import SMALL, TINY, DetectorConfig, FasterRCNNConfig
from vodbench_methods.detection.single_frame import SingleFrameDetector


class FasterRCNN(SingleFrameDetector):
    """RoIAlign and fully connected layers on conv5."""

    config: FasterRCNNConfig

    def __init__(self, config: FasterRCNNConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.head = BoxHead(self.pooled_channels, config.fc_channels, config.fc_layers)

    def roi_features(self, pooled: Tensor) -> Tensor:
        return cast(Tensor, self.head(pooled))


def _build(config: MethodConfig, num_classes: int) -> FasterRCNN:
    assert isinstance(config, FasterRCNNConfig)
    return FasterRCNN(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, FasterRCNNConfig)
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
    config=FasterRCNNConfig,
    presets={"paper": {}, "small": SMALL, "tiny": TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
