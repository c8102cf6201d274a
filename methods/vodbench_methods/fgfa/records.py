"""What a stream keeps of a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from vodbench.spec import HALF_PRECISION
from vodbench_methods.detection.records import Batch


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """All that a frame gives, as a reference and as a neighbour; it depends on weights and preprocessing alone."""

    batch: Batch  # of one image
    shape: tuple[int, ...]  # of the original image
    # (1, C, h, w); with E further channels where the embedding is warped too, so that both are warped at once
    maps: Tensor = field(metadata=HALF_PRECISION)

    def fits(self, other: EncodedFrame) -> bool:
        """Maps of frames of different sizes cannot be warped to one another."""
        return self.shape == other.shape
