"""The settings of two-stage detectors; the defaults are the RDN paper's single-frame Faster R-CNN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import ClipSpec, Schedule

BACKBONES = ("resnet18", "resnet50", "resnet101", "resnext101_32x4d", "resnext101_64x4d", "tiny")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(MethodConfig):
    """Input, backbone, proposals, RoIs, detections and schedule of a detector on stride-16 "DC5" features."""

    # ---- input
    short_side: int = knob(600, "shorter side of the resized image, px", low=16)
    max_side: int = knob(1000, "upper limit of the longer side, px", low=16)
    channel_order: str = knob("rgb", "order in which the backbone sees the colour channels", choices=("rgb", "bgr"))
    pixel_mean: tuple[float, ...] = knob((123.675, 116.28, 103.53), "subtracted from 0..255, in channel_order")
    pixel_std: tuple[float, ...] = knob((58.395, 57.12, 57.375), "divides what is left, in channel_order")

    # ---- backbone
    backbone: str = knob("resnet101", "feature network; conv5 has stride 16 and dilation 2", choices=BACKBONES)
    weights: str | None = knob(None, "torchvision state dict the backbone starts from (a local file)")
    frozen_stages: int = knob(2, "backbone stages that are not trained, counted from the stem", low=0, high=5)
    frozen_batch_norm: bool = knob(True, "batch norm is a fixed affine map, folded into convolutions at inference")
    batch_norm_eps: float = knob(1e-5, "added to the variance (0 in mega.pytorch's frozen batch norm)", low=0)
    stride_in_1x1: bool = knob(False, "a bottleneck strides in its first 1x1 (Caffe, mega.pytorch), not in its 3x3")
    dilate_first_block: bool = knob(False, "conv5's first 3x3 is dilated too (mmdetection; implied by stride_in_1x1)")
    tiny_width: int = knob(
        12, "channels after the first convolution of the tiny backbone", low=1, needs={"backbone": "tiny"}
    )
    tiny_stride: int = knob(4, "stride of the tiny backbone", choices=(4, 8, 16), needs={"backbone": "tiny"})

    # ---- boxes
    inclusive_boxes: bool = knob(False, "a box from x1 to x2 is x2 - x1 + 1 wide (Caffe, mega.pytorch)")

    # ---- proposals
    anchor_sizes: tuple[float, ...] = knob((64.0, 128.0, 256.0, 512.0), "square root of an anchor's area, px")
    anchor_ratios: tuple[float, ...] = knob((0.5, 1.0, 2.0), "height / width of an anchor")
    rounded_anchors: bool = knob(False, "whole-pixel base anchors scaled up (Caffe, mega.pytorch)")
    anchor_origin: str = knob(
        "centre", "where in its cell an anchor is centred (corner: mmdetection)", choices=("centre", "corner")
    )
    rpn_channels: int = knob(1024, "channels of the RPN's 3x3 convolution; 0: it has none", low=0)
    rpn_foreground_iou: float = knob(0.7, "an anchor is an object from this IoU on", low=0, high=1)
    rpn_background_iou: float = knob(0.3, "an anchor is background below this IoU", low=0, high=1)
    rpn_batch: int = knob(256, "anchors a frame in the RPN's loss", low=1)
    rpn_positive_fraction: float = knob(0.5, "at most this share of them are objects", above=0, high=1)
    rpn_nms_threshold: float = knob(0.7, "IoU above which the RPN drops the lower-scored box", above=0, high=1)
    train_candidates: int = knob(6000, "boxes before the RPN's NMS in training", low=1)
    train_proposals: int = knob(300, "proposals a frame in training", low=1)
    candidates: int = knob(6000, "boxes before the RPN's NMS at inference", kind="inference", low=1)
    proposals: int = knob(300, "proposals a frame at inference", kind="inference", low=1)

    # ---- RoIs
    roi_size: int = knob(7, "bins of a RoI in each direction", low=1)
    roi_sampling: int = knob(2, "RoIAlign samples a bin and direction; 0: as many as the bin is wide", low=0)
    roi_batch: int = knob(128, "RoIs a frame in the head's loss", low=1)
    roi_positive_fraction: float = knob(0.25, "at most this share of them are objects", above=0, high=1)
    roi_foreground_iou: float = knob(0.5, "a RoI is an object from this IoU on", low=0, high=1)
    box_weights: tuple[float, ...] = knob((10.0, 10.0, 5.0, 5.0), "scale of the box targets dx, dy, dw, dh")

    # ---- detections
    score_threshold: float = knob(0.001, "detections score more than this", kind="inference", low=0, high=1)
    nms_threshold: float = knob(0.5, "IoU above which a class drops the lower-scored box", kind="inference", low=0)
    max_detections: int = knob(300, "detections kept a frame", kind="inference", low=1)
    linking: str = knob(
        "none",
        "rescoring along a snippet's boxes when it has ended: Seq-NMS (instead of NMS), Viterbi tubes",
        kind="inference",
        choices=("none", "seq-nms", "tube"),
    )
    unlinked: str = knob(
        "keep",
        "boxes that no tube takes keep their score, or are dropped with the frames between (Detect & Track's code)",
        kind="inference",
        choices=("keep", "drop"),
        needs={"linking": ("tube", "blr")},  # the second is RDN's own
    )

    # ---- schedule
    iterations: int = knob(120_000, "optimiser steps", low=1)
    batch_size: int = knob(4, "clips a step over all workers", low=1)
    learning_rate: float = knob(1e-3, "SGD's rate after the warm-up", above=0)
    weight_decay: float = knob(1e-4, "L2 penalty", low=0)
    warmup_iterations: int = knob(500, "steps over which the rate rises from a third", low=0)
    drops: tuple[float, ...] = knob((2 / 3,), "shares of the iterations after which the rate falls tenfold")
    clip_gradient_norm: float | None = knob(None, "largest gradient norm of a step", above=0)
    flip_probability: float = knob(0.5, "chance that a clip is mirrored", low=0, high=1)
    training_frames: str = knob(
        "all",
        "labelled frames that the single-frame detector learns from: stills (ImageNet DET), those of videos, or all",
        choices=("all", "stills", "videos"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = {"pixel_mean": 3, "pixel_std": 3, "box_weights": 4}
        for name, length in lengths.items():
            values = getattr(self, name)
            if len(values) != length or (name != "pixel_mean" and min(values) <= 0):
                sign = "" if name == "pixel_mean" else "positive "
                raise UserError(f"{name} = {list(values)} is not accepted: give {length} {sign}numbers")
        for name in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise UserError(f"{name} = {list(values)} is not accepted: give at least one positive number")
        if any(not 0 < share < 1 for share in self.drops) or list(self.drops) != sorted(set(self.drops)):
            raise UserError(f"drops = {list(self.drops)} is not accepted: give rising shares in (0, 1), such as [0.7]")
        if self.rounded_anchors and self.anchor_origin == "corner":
            raise UserError("anchor_origin = 'corner' with rounded_anchors is no one's convention; give one of them")
        if self.rpn_background_iou > self.rpn_foreground_iou:
            raise UserError(
                f"rpn_background_iou = {self.rpn_background_iou} is above rpn_foreground_iou = "
                f"{self.rpn_foreground_iou}; make it smaller or equal"
            )
        if self.max_side < self.short_side:
            raise UserError(f"max_side = {self.max_side} is below short_side = {self.short_side}; make it larger")

    def warnings(self) -> tuple[str, ...]:
        if not self.frozen_batch_norm or self.weights is not None:
            return ()
        return (
            "frozen_batch_norm = True on random weights: batch norm never sees the data's statistics; "
            "give 'weights' (a torchvision state dict), or set frozen_batch_norm to false",
        )

    @property
    def feature_stride(self) -> int:
        """Pixels of the resized image a cell of conv4 and conv5 stands for."""
        return self.tiny_stride if self.backbone == "tiny" else 16

    @property
    def lag(self) -> int | None:
        """Frames that detections lag behind without linking; None: until the snippet ends."""
        return 0

    @property
    def latency(self) -> int | None:
        """The same with linking, which is final only when the snippet ends."""
        return self.lag if self.linking == "none" else None

    def schedule(self) -> Schedule:
        """Optimisation of the single-frame stage."""
        return Schedule(
            iterations=self.iterations,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_iterations=self.warmup_iterations,
            milestones=tuple(round(share * self.iterations) for share in self.drops),
            clip_gradient_norm=self.clip_gradient_norm,
        )

    def single_frames(self) -> ClipSpec:
        """Clips of a reference frame alone."""
        return ClipSpec(flip_probability=self.flip_probability, frames=self.training_frames)


@dataclass(frozen=True, kw_only=True)
class FasterRCNNConfig(DetectorConfig):
    """The same with RoIAlign and fully connected layers on conv5: Faster R-CNN and everything built on its head."""

    conv5_reduction: int | None = knob(None, "convolution + ReLU of conv5 to so many channels", low=1)
    conv5_reduction_kernel: int = knob(1, "size of that convolution (3: mmtracking)", choices=(1, 3))
    rpn_input: str = knob(
        "conv4", "what proposals are made of (conv5, reduced: mmtracking)", choices=("conv4", "conv5")
    )
    roi_aligned: bool = knob(True, "RoIAlign with the half-pixel shift (false: Caffe2, mega.pytorch)")
    fc_channels: int = knob(1024, "width of the RoI features after the fully connected layers", low=1)
    fc_layers: int = knob(2, "fully connected layers of the single-frame head", low=1)


# 128 px generated video, objects of 15-55 px (median 35), CPU.
TINY: Mapping[str, Any] = {
    "short_side": 128,
    "max_side": 256,
    "backbone": "tiny",
    "frozen_stages": 0,
    "frozen_batch_norm": False,
    "tiny_width": 16,
    "anchor_sizes": (36.0,),
    "anchor_ratios": (1.0,),
    "rpn_foreground_iou": 0.5,
    "rpn_channels": 32,
    "rpn_batch": 64,
    "train_candidates": 200,
    "train_proposals": 24,
    "candidates": 200,
    "proposals": 24,
    "roi_size": 5,
    "fc_channels": 128,
    "roi_batch": 32,
    "iterations": 1400,
    "batch_size": 4,
    "learning_rate": 0.06,
    "warmup_iterations": 50,
    "drops": (0.7,),
    "clip_gradient_norm": 10.0,
}

# Real video of 200-420 px on two CPU cores.
SMALL: Mapping[str, Any] = {
    **TINY,
    "short_side": 208,
    "max_side": 384,
    "tiny_stride": 8,
    "anchor_sizes": (24.0, 64.0, 144.0),
    "anchor_ratios": (0.5, 1.0, 2.0),
    "train_candidates": 400,
    "train_proposals": 40,
    "candidates": 400,
    "proposals": 40,
    "roi_batch": 48,
    "learning_rate": 0.03,
    "iterations": 1500,
}
