"""Requests to MLflow that every run needs, in the sizes that MLflow takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vodbench.storage import read_bytes

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_BATCH = 100  # MLflow's limit of params and tags a request


def log_all(
    client: MlflowClient,
    run_id: str,
    *,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    timestamp_ms: int,
    tags: Mapping[str, str] | None = None,
) -> None:
    """One request, or several for more than 100 params. MLflow writes params, then metrics, then tags: what the tags
    say comes last."""
    from mlflow.entities import Metric, Param, RunTag

    values = [Metric(name, value, timestamp_ms, 0) for name, value in metrics.items()]
    settings = [Param(name, value) for name, value in params.items()]
    marks = [RunTag(name, value) for name, value in (tags or {}).items()]
    starts = range(0, max(len(settings), 1), _BATCH)
    for start in starts:
        chosen = settings[start : start + _BATCH]
        client.log_batch(run_id, values if start == 0 else [], chosen, marks if start == starts[-1] else [])


def attach(client: MlflowClient, run_id: str, url: str) -> None:
    """Upload a file; MLflow uploads from disk only."""
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, url.rpartition("/")[2])
        with open(local, "wb") as file:
            file.write(read_bytes(url))
        client.log_artifact(run_id, local)
