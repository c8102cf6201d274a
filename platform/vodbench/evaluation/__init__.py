"""From stored detections to accuracy: protocols, motion, uncertainty, tables."""

from vodbench.evaluation.protocols import PROTOCOLS
from vodbench.evaluation.scoring import Difference, compare, evaluate
from vodbench.evaluation.truth import TruthSet, truth_set

__all__ = ["PROTOCOLS", "Difference", "TruthSet", "compare", "evaluate", "truth_set"]
