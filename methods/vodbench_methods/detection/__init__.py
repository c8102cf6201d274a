"""Two-stage detection on one frame: what every proposal-based video method starts from."""
