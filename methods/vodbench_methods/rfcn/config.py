"""The knobs of R-FCN and Deformable R-FCN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench_methods.detection.config import SMALL as FASTER_RCNN_SMALL
from vodbench_methods.detection.config import TINY as FASTER_RCNN_TINY
from vodbench_methods.detection.config import DetectorConfig

POOLINGS = ("align", "original", "deformable")


@dataclass(frozen=True, kw_only=True)
class PositionSensitiveConfig(DetectorConfig):
    """R-FCN as Deep Feature Flow trains it: conv5, reduced, feeds both the RPN and the position-sensitive maps."""

    # ---- network
    dilate_first_block: bool = knob(True, "conv5's first 3x3 is dilated too (Deep Feature Flow)")
    map_channels: int = knob(1024, "channels of reduced conv5; one half is the RPN's, the other the RoIs'", low=2)
    map_dilation: int = knob(6, "dilation of the 3x3 convolution that reduces conv5", low=1)
    deformable: str = knob(
        "none", "dcn: the 3x3 convolutions of conv5 are deformable (Dai et al. 2017)", choices=("none", "dcn")
    )
    deformable_groups: int = knob(
        4, "parts of a deformable convolution's channels that move alike", low=1, needs={"deformable": "dcn"}
    )

    # ---- proposals
    anchor_sizes: tuple[float, ...] = knob((128.0, 256.0, 512.0), "square root of an anchor's area, px")
    rpn_channels: int = knob(0, "channels of the RPN's 3x3 convolution; 0: it has none (Deep Feature Flow)", low=0)

    # ---- RoIs
    pooling: str = knob(
        "align",
        "position-sensitive pooling: bilinear samples, the original's whole cells, or bins that move",
        choices=POOLINGS,
    )
    roi_sampling: int = knob(2, "samples a bin and direction", low=1, needs={"pooling": "align"})
    deformable_sampling: int = knob(4, "samples a bin and direction", low=1, needs={"pooling": "deformable"})
    offset_scale: float = knob(
        0.1, "what a bin's offset of 1 is, in RoI sizes", above=0, needs={"pooling": "deformable"}
    )
    ohem: bool = knob(True, "the head learns from the roi_batch RoIs of highest loss; false: from a random sample")
    roi_batch: int = knob(128, "RoIs a frame in the head's loss", low=1)
    roi_positive_fraction: float = knob(
        0.25, "at most this share of a random sample (ohem = false) are objects", above=0, high=1
    )

    # ---- detections, schedule
    nms_threshold: float = knob(0.3, "IoU above which a class drops the lower-scored box", kind="inference", low=0)
    weight_decay: float = knob(5e-4, "L2 penalty", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.map_channels % 2:
            raise UserError(f"map_channels = {self.map_channels} has no halves; give an even number")


@dataclass(frozen=True, kw_only=True)
class RFCNConfig(PositionSensitiveConfig):
    """The same by itself, on every frame of a video or with copies between (the copy baseline of semi-DFF)."""

    key_frame_interval: int = knob(
        1,
        "every l-th frame is looked at, its detections are copied to those after it",
        kind="inference",
        symbol="l",
        low=1,
    )


def _without_head(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What of Faster R-CNN's preset is not about its fully connected head."""
    return {name: value for name, value in preset.items() if name in DetectorConfig.knobs()}


_SMALL_MAPS: Mapping[str, Any] = {"map_channels": 64, "map_dilation": 2, "roi_size": 3, "weight_decay": 1e-4}
# More proposals than roi_batch, so that there are hard ones to choose from.
TINY: Mapping[str, Any] = {**_without_head(FASTER_RCNN_TINY), **_SMALL_MAPS, "train_proposals": 64}
# A vote is a mean over bins of one 1x1 convolution: how far a step moves it grows with the channels it reads. With 64,
# enough for generated video at its higher rate, the votes hardly moved (mAP 0.07 on small real video where Faster R-CNN
# had 0.32 after as many steps; 0.25 with 256, 0.35 with 512).
SMALL: Mapping[str, Any] = {
    **_without_head(FASTER_RCNN_SMALL),
    **_SMALL_MAPS,
    "map_channels": 512,
    "train_proposals": 96,
}
