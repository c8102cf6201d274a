"""The knobs of FGFA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.knobs import knob
from vodbench.spec import ClipSpec
from vodbench_methods.propagation.config import SMALL as FLOW_SMALL
from vodbench_methods.propagation.config import TINY as FLOW_TINY
from vodbench_methods.propagation.config import FlowConfig


@dataclass(frozen=True, kw_only=True)
class FGFAConfig(FlowConfig):
    """A detector and a flow network, and which frames are aggregated how."""

    flow_scale: bool = knob(False, "the flow network also says how much of each warped feature to keep (as in DFF)")

    # ---- inference
    T: int = knob(10, "frames aggregated on each side of the reference frame", kind="inference", symbol="K", low=1)
    video_ends: str = knob(
        "replicate",
        "the window at a video's ends: the first and last frame repeated (published), or fewer frames",
        kind="inference",
        choices=("truncate", "replicate"),
    )
    embeddings: str = knob(
        "cached",
        "a frame's embedding is computed once and warped with its map (published code), or anew from every warped map "
        "(paper, and in training)",
        kind="inference",
        choices=("cached", "recomputed"),
    )
    self_flow: bool = knob(
        True, "the reference frame's own map is warped too, by the flow to itself (published)", kind="inference"
    )

    # ---- network
    embedding_channels: int = knob(512, "channels inside the embedding network", low=1)
    embedding_outputs: int = knob(2048, "channels of an embedding", low=1)

    # ---- training
    T_train: int = knob(9, "support frames are drawn within so many frames", symbol="K", low=1)
    num_supports: int = knob(2, "support frames of a training clip, which are aggregated", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_supports > 2 * self.T_train + 1:
            raise UserError(
                f"num_supports = {self.num_supports} is more than the 2 x T_train + 1 = {2 * self.T_train + 1} frames "
                "that may be drawn; raise T_train or draw fewer"
            )

    @property
    def lag(self) -> int | None:
        return self.T

    def clips(self) -> ClipSpec:
        """A reference frame with its support frames, one of which may be the frame itself."""
        return ClipSpec(
            num_supports=self.num_supports,
            offset_low=-self.T_train,
            offset_high=self.T_train,
            own_frame=True,
            flip_probability=self.flip_probability,
        )


_SMALLER: Mapping[str, Any] = {"T": 5, "T_train": 6, "embedding_channels": 32, "embedding_outputs": 64}
TINY: Mapping[str, Any] = {**FLOW_TINY, **_SMALLER}
SMALL: Mapping[str, Any] = {**FLOW_SMALL, **_SMALLER}
