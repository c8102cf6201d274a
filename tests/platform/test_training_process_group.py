"""Which interface gloo is given. Over two real nodes: tests/cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.torch import TorchConfig

from vodbench.training import process_group

ADDRESSES = {
    "lo": [SimpleNamespace(address="127.0.0.1")],
    "eth0": [SimpleNamespace(address="fe80::1"), SimpleNamespace(address="10.0.0.7")],
}


@pytest.mark.parametrize(
    ("address", "given", "expected"),
    [("10.0.0.7", None, "eth0"), ("10.0.0.7", "ib0", "ib0"), ("10.9.9.9", None, None)],
)
def test_the_interface_that_ray_uses(
    address: str, given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "node_address", lambda: address)
    monkeypatch.setattr("psutil.net_if_addrs", lambda: ADDRESSES)
    monkeypatch.delenv(process_group.INTERFACE, raising=False)
    if given is not None:
        monkeypatch.setenv(process_group.INTERFACE, given)
    process_group.listen_where_ray_does()
    assert os.environ.get(process_group.INTERFACE) == expected
    os.environ.pop(process_group.INTERFACE, None)


@pytest.mark.parametrize(("nodes", "named"), [(["10.0.0.7", "10.0.0.7"], False), (["10.0.0.7", "10.0.0.8"], True)])
def test_only_groups_over_several_nodes_are_told(
    nodes: list[str], named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training on one machine is left alone."""
    ran: list[Any] = []

    class Workers:
        def execute(self, function: Callable[[], Any]) -> list[Any]:
            ran.append(function)
            return nodes

    monkeypatch.setattr(process_group._TorchBackend, "on_start", lambda *_: ran.append("group"))
    process_group.NodesTorchConfig(backend="gloo").backend_cls().on_start(Workers(), TorchConfig(backend="gloo"))
    asked = [process_group.node_address]
    assert ran == [*asked, *([process_group.listen_where_ray_does] if named else []), "group"]
