"""Torch's process group over several nodes."""

from __future__ import annotations

import os
from typing import Any

import psutil
from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"

_TorchBackend: Any = TorchConfig().backend_cls


class NodesTorchConfig(TorchConfig):
    """Gloo listens where the machine's own name leads to, and many systems lead it to 127.0.1.1, where no other node
    can connect. Here it listens where Ray reaches the node. NCCL finds its way by itself."""

    @property
    def backend_cls(self) -> type:
        return _NodesBackend


class _NodesBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(node_address))) > 1:
            worker_group.execute(listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def node_address() -> str:
    """Of the node that this runs on, as Ray knows it."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def listen_where_ray_does() -> None:
    """Name gloo the interface that has the node's address, where the user has not named one."""
    address = node_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == address for found in addresses):
            os.environ.setdefault(INTERFACE, name)
            return
