"""The knobs of methods that draw their support frames from the whole video."""

from __future__ import annotations

from dataclasses import dataclass

from vodbench.knobs import knob
from vodbench_methods.detection.config import DetectorConfig
from vodbench_methods.sequence.choice import reach


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(DetectorConfig):
    """What the streams of ``sequence`` need to know; a method's own configuration derives from it."""

    test_frames: int = knob(14, "support frames of a reference frame at test time", kind="inference", low=1)
    test_supports: str = knob(
        "video",
        "where they are: evenly spread over the whole video (final when it ends), or next to the reference frame",
        kind="inference",
        choices=("video", "window"),
    )
    K: int = knob(300, "supportive proposals a frame, by objectness", kind="inference", symbol="K", low=1)

    @property
    def encoded_proposals(self) -> int:
        """Proposals of a frame that are encoded: as a reference it uses ``proposals``, as a support ``K``."""
        return max(self.proposals, self.K)

    @property
    def lag(self) -> int | None:
        return None if self.test_supports == "video" else reach(self.test_frames)[1]
