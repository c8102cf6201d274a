"""Which frames of a video support a reference frame, and streams for methods that take them from the whole of it."""

from vodbench_methods.sequence.choice import around, spread_over, window
from vodbench_methods.sequence.config import SequenceConfig
from vodbench_methods.sequence.stream import SequenceMethod, detect_from_scratch, sequence_stream

__all__ = [
    "SequenceConfig",
    "SequenceMethod",
    "around",
    "detect_from_scratch",
    "sequence_stream",
    "spread_over",
    "window",
]
