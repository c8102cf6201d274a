"""Methods whose support frames come from the whole video (SELSA, HVR-Net): which frames, and streams for them."""

from vodbench_methods.sequence.choice import around, spread_over
from vodbench_methods.sequence.config import SequenceConfig
from vodbench_methods.sequence.stream import SequenceMethod, detect_from_scratch, sequence_stream

__all__ = ["SequenceConfig", "SequenceMethod", "around", "detect_from_scratch", "sequence_stream", "spread_over"]
