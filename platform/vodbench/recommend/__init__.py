"""Which settings to take under a runtime budget, and how sure that choice is."""

from vodbench.recommend.advice import Advice, Candidate, NoCandidate, recommend
from vodbench.recommend.limits import Limits

__all__ = ["Advice", "Candidate", "Limits", "NoCandidate", "recommend"]
