"""Readers of checkpoints that other projects published."""
