"""The flow networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vodbench.errors import unknown
from vodbench_methods.flow.flownet_c import FlowNetC
from vodbench_methods.flow.flownet_s import FlowNetS
from vodbench_methods.flow.network import FlowNetwork
from vodbench_methods.flow.tiny import FlowNetTiny

FLOW_NETWORKS: Mapping[str, type[FlowNetwork]] = MappingProxyType(
    {
        "flownet-s": FlowNetS,
        "flownet-c": FlowNetC,
        "tiny": FlowNetTiny,
    }
)


def build_flow_network(
    name: str, *, feature_stride: int, map_channels: int | None = None, with_update: bool = False, **settings: Any
) -> FlowNetwork:
    """An untrained flow network for maps of ``feature_stride`` pixels a cell.

    map_channels: C of the scale map, None for none; with_update: THP's update logits; ``settings`` are the network's
    own (``initialisation``, ``mean``, ...). Raises ``UserError`` for an unknown name or a stride that it does not have.
    """
    if name not in FLOW_NETWORKS:
        raise unknown("flow network", name, FLOW_NETWORKS)
    network: Callable[..., FlowNetwork] = FLOW_NETWORKS[name]
    return network(feature_stride=feature_stride, map_channels=map_channels, with_update=with_update, **settings)
