"""Which connections NetworkPolicies allow, worked out as a network plugin does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

Labels = Mapping[str, str]


class Network:
    """The policies of one namespace, whose pods are told by their labels; others by namespace labels or address."""

    def __init__(self, manifests: Sequence[dict[str, Any]]) -> None:
        self.policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]

    def joins(self, source: Labels, target: Labels, port: int, protocol: str = "TCP") -> bool:
        """Does a pod of the namespace reach another one?"""
        return self.leaves(source, port, protocol, pod=target) and self.enters(target, port, protocol, pod=source)

    def enters(self, target: Labels, port: int, protocol: str = "TCP", **peer: Any) -> bool:
        return self._allowed("Ingress", "ingress", "from", target, port, protocol, peer)

    def leaves(self, source: Labels, port: int, protocol: str = "TCP", **peer: Any) -> bool:
        """``pod`` (labels), with ``namespace`` (its labels) for another one's, or ``address``."""
        return self._allowed("Egress", "egress", "to", source, port, protocol, peer)

    def _allowed(self, kind: str, rules: str, side: str, pod: Labels, port: int, protocol: str, peer: Any) -> bool:
        chosen = [p for p in self.policies if kind in p["policyTypes"] and _selects(p["podSelector"], pod)]
        if not chosen:
            return True
        return any(
            _port(rule.get("ports"), port, protocol) and any(_peer(one, peer) for one in rule[side])
            for policy in chosen
            for rule in policy.get(rules, ())
        )


def _selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    assert all(e["operator"] == "In" for e in selector.get("matchExpressions", ())), "only In is understood here"
    return exact and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", ()))


def _port(ports: Any, port: int, protocol: str) -> bool:
    return ports is None or any(p["port"] == port and p["protocol"] == protocol for p in ports)


def _peer(rule: Mapping[str, Any], peer: Mapping[str, Any]) -> bool:
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        address = peer.get("address")
        if address is None or ip_address(address) not in ip_network(block["cidr"]):
            return False
        return not any(ip_address(address) in ip_network(part) for part in block.get("except", ()))
    if "pod" not in peer:
        return False
    if "namespaceSelector" in rule:
        if not _selects(rule["namespaceSelector"], peer.get("namespace", {"kubernetes.io/metadata.name": "vodbench"})):
            return False
    elif "namespace" in peer:
        return False
    return _selects(rule.get("podSelector", {}), peer["pod"])
