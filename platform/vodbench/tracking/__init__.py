"""Recording sweeps in MLflow: results are on disk first, and are delivered from there."""
