"""Optical flow for video detection: networks, the warp, losses against known flow, pictures. Knows no detector."""

from vodbench_methods.flow.build import FLOW_NETWORKS, build_flow_network
from vodbench_methods.flow.losses import end_point_error, end_point_errors, multi_scale_loss
from vodbench_methods.flow.network import FlowNetwork, FlowOutput, ScaledFlow
from vodbench_methods.flow.warping import CONVENTIONS, Convention, warp

__all__ = [
    "CONVENTIONS",
    "FLOW_NETWORKS",
    "Convention",
    "FlowNetwork",
    "FlowOutput",
    "ScaledFlow",
    "build_flow_network",
    "end_point_error",
    "end_point_errors",
    "multi_scale_loss",
    "warp",
]
