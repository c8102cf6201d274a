"""Sweeps: trials of a study scheduled by Ray Tune, proposed by a grid or by Optuna, kept on disk."""
