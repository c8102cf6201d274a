"""The knobs of THP, and the rows of its Table 1 as settings of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from vodbench.errors import UserError, unknown
from vodbench.knobs import MethodConfig, knob
from vodbench_methods.propagation.config import SMALL as FLOW_SMALL
from vodbench_methods.propagation.config import TINY as FLOW_TINY
from vodbench_methods.propagation.config import KeyFrameConfig


@dataclass(frozen=True, kw_only=True)
class UnifiedInference(MethodConfig):
    """The options of Algorithm 1: which frames are key frames, and what is computed on the others.

    A frame of another size than the key frame's is a key frame always, and starts anew.
    """

    keys: str = knob(
        "adaptive",
        "key frames: every l-th frame; a frame of which more than gamma would have to be computed anew; or (oracle) "
        "wherever that frame's annotation says it helps, a bound for comparison",
        kind="inference",
        choices=("interval", "adaptive", "oracle"),
    )
    gamma: float = knob(
        0.2,
        "share of a frame to be computed anew above which it becomes a key frame",
        kind="inference",
        low=0,
        high=1,
        needs={"keys": "adaptive"},
    )
    aggregation: bool = knob(
        True, "a key frame's map joins those of the key frames before it; false: it stands alone", kind="inference"
    )
    partial_updating: bool = knob(
        True, "between key frames, features are computed anew where propagation fails", kind="inference"
    )
    update_threshold: float = knob(
        0.0, "propagation is taken to fail where Q is at most this (training: 0)", kind="inference", symbol="tau"
    )


# Table 1 of the paper. Dense aggregation, its fourth row of others' work, looks at later frames: see the method fgfa.
_INTERVAL: Mapping[str, Any] = {"keys": "interval"}
_ALONE: Mapping[str, Any] = {"aggregation": False, "partial_updating": False}
TABLE_1: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "per-frame": {**_INTERVAL, **_ALONE, "key_frame_interval": 1},
        "sparse-propagation": {**_INTERVAL, **_ALONE},
        "c1": {**_INTERVAL, "aggregation": True, "partial_updating": False},
        "c2": {**_INTERVAL, "aggregation": True, "partial_updating": True},
        "c3": {"keys": "adaptive", "aggregation": True, "partial_updating": True},
    }
)


@dataclass(frozen=True, kw_only=True)
class THPConfig(UnifiedInference, KeyFrameConfig):
    """Deep Feature Flow's settings, recursive aggregation, partial updating, and when a frame is a key frame."""

    key_frame_interval: int = knob(
        10,
        "frames from key frame to key frame",
        kind="inference",
        symbol="l",
        low=1,
        needs={"keys": "interval"},
    )
    embedding_hidden: int = knob(512, "channels inside the network that aggregation weights come from", low=1)
    embedding_channels: int = knob(2048, "channels of the embeddings that are compared", low=1)
    update_weight: float = knob(2.0, "weight of the updated share of a frame in the loss", symbol="lambda", low=0)
    forced_share: float = knob(
        2 / 3, "share of training clips updated nowhere (one half) or everywhere, whatever is predicted", low=0, high=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keys == "oracle" and self.linking != "none":
            raise UserError(
                f"linking = '{self.linking}' with keys = 'oracle' is not accepted: the oracle judges each frame by its "
                "own detections; give linking = 'none'"
            )

    @property
    def guided(self) -> bool:
        return self.keys == "oracle"

    def row(self, name: str) -> Self:
        """The same weights, used as a row of Table 1 says. ``UserError`` for an unknown row."""
        if name not in TABLE_1:
            raise unknown("row of Table 1", name, TABLE_1)
        return self.replace(**TABLE_1[name])


# With the paper's lambda small networks learn to update nothing.
_SMALL_EMBEDDING: Mapping[str, Any] = {"embedding_hidden": 32, "embedding_channels": 64, "update_weight": 0.5}
TINY: Mapping[str, Any] = {**FLOW_TINY, **_SMALL_EMBEDDING}
SMALL: Mapping[str, Any] = {**FLOW_SMALL, **_SMALL_EMBEDDING}
