"""What mega.pytorch's DFF and FGFA have beside its Faster R-CNN: a flow network, FGFA an embedding network.

Their conventions are named settings. The flow network sees what the backbone sees, BGR minus the mean, divided by 255;
ours is given RGB in 0..1 and subtracts the mean itself, and the colours of its first weights are turned round. DFF
passes key frames through the flow network too. FGFA's window is 19 frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from vodbench_methods.flow.flownet_s import published_name
from vodbench_methods.importers.published import Source, count

DETECTOR = "detector."

FLOW_CONVENTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "detector": "faster-rcnn",
        "flow_network": "flownet-s",
        "flow_mean": (122.7717 / 255, 115.9465 / 255, 102.9801 / 255),
        "flow_odd_sizes": "crop",
        "warp": "mega",
    }
)
DFF_CONVENTIONS: Mapping[str, Any] = MappingProxyType({"flow_scale": True, "warped_key_frames": True})
FGFA_CONVENTIONS: Mapping[str, Any] = MappingProxyType(
    {"flow_scale": False, "T": 9, "video_ends": "replicate", "embeddings": "cached", "self_flow": True}
)

_FLOW = "flownet."
_EMBEDDING = "embednet."
_FIRST = "flow.conv1.weight"  # sees the colours of both images


@dataclass(frozen=True, slots=True)
class Found:
    """A method with a flow network, and the settings that its keys and shapes show."""

    layout: str
    method: str
    settings: dict[str, Any]


def found(published: Mapping[str, Tensor]) -> Found | None:
    """DFF or FGFA by what is beside the detector; None where nothing is."""
    if count(published, _EMBEDDING):
        shapes = {
            knob: len(published[f"{_EMBEDDING}{layer}.weight"])
            for knob, layer in (("embedding_channels", "embed_conv1"), ("embedding_outputs", "embed_conv3"))
            if f"{_EMBEDDING}{layer}.weight" in published
        }
        return Found("FGFA (base, flownet, embednet)", "fgfa", {**FLOW_CONVENTIONS, **FGFA_CONVENTIONS, **shapes})
    if count(published, _FLOW):
        return Found("DFF (base, flownet)", "dff", {**FLOW_CONVENTIONS, **DFF_CONVENTIONS})
    return None


def source(name: str, shape: tuple[int, ...]) -> Source | None:
    """Where a weight of ours comes from that is not the detector's; None for the detector's."""
    if name.startswith("flow."):
        published = _FLOW + published_name(name.removeprefix("flow."))
        return Source(published, shape, _colours_turned) if name == _FIRST else Source(published, shape)
    layer = re.fullmatch(r"embedding\.conv(\d)\.(weight|bias)", name)
    return Source(f"{_EMBEDDING}embed_conv{layer[1]}.{layer[2]}", shape) if layer else None


def _colours_turned(weight: Tensor) -> Tensor:
    """(outputs, 6, 7, 7) for two BGR images -> the same for two RGB images."""
    return weight[:, [2, 1, 0, 5, 4, 3]]
