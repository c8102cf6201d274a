"""Which part of a method helps, and how sure that is: paired differences between the trials of a sweep."""

from vodbench.gains.pairs import Gain, study_gains

__all__ = ["Gain", "study_gains"]
