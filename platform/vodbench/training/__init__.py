"""Training: stages, fingerprints, checkpoints to resume from, and Ray Train around them."""

from vodbench.training.driver import train, train_all
from vodbench.training.fingerprints import plan_stages, training_fingerprint
from vodbench.training.loop import TrainingError

__all__ = ["TrainingError", "plan_stages", "train", "train_all", "training_fingerprint"]
