"""Records that are written to disk as JSON: what a trial was and what came out.

They are the interface between sweeps (which write them), tracking, fronts and reports (which read them), so a front
or a table can be recomputed from disk alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from vodbench.errors import UserError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """mAP of one trial in [0, 1] under one protocol. ``low``/``high``: 95% bootstrap interval over snippets."""

    protocol: str
    map: float
    low: float
    high: float
    per_class: dict[str, float | None] = field(default_factory=dict)  # class name -> AP (None: no ground truth)
    motion: dict[str, float | None] = field(default_factory=dict)  # slow, medium, fast
    deteriorations: dict[str, float | None] = field(default_factory=dict)  # incl. "any" and "none" where known
    map50: float | None = None  # AP at IoU 0.5, beside the mean over thresholds (protocol "coco" only)
    num_snippets: int = 0
    num_frames: int = 0
    stage_share: dict[str, float] = field(default_factory=dict)  # stage -> share of the frames that it ran on

    @property
    def key_frame_share(self) -> float | None:
        """The share of the frames that the backbone saw in full; None where that was not told."""
        return self.stage_share.get("backbone")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Per-frame cost, streamed at batch 1, decode excluded. All times in milliseconds.

    Fronts, objectives and tables compare the mean: where key frames are few, a median sees none of them.
    """

    median_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    low_ms: float  # 95% interval of the mean
    high_ms: float
    fps: float
    stage_ms: dict[str, float]  # mean a frame by stage
    decode_ms: float
    gflops: float | None  # a frame, 2 x multiply-adds; None where it could not be counted
    peak_memory_mb: float
    latency_frames: int | None  # None: final only when the snippet ends
    num_frames: int
    device: str
    threads: int
    contended: bool  # the device was not idle: do not trust
    note: str = ""
    rounds: int | None = None  # over the sampled snippets, those that were disturbed included; None: not noted


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One point of a study: finished, failed, or stopped before it was trained to its end."""

    fingerprint: str  # of method, config, seed, data and protocol: the trial's identity everywhere
    study: str
    method: str
    paper: str
    config: dict[str, Any]  # resolved, complete
    knobs: dict[str, Any]  # the swept ones only
    seed: int
    status: Literal["complete", "failed", "stopped"]  # stopped: its training was given up as hopeless
    reason: str | None = None
    interrupted: bool = False  # it failed for what happened around it: the next sweep tries it again
    accuracy: Accuracy | None = None
    runtime: Runtime | None = None
    checkpoint: str | None = None  # fingerprint of the weights; of a stopped trial, of those it would have had
    detections: str | None = None  # path relative to the study folder
    data_fingerprint: str = ""
    revision: str = ""
    started: str = ""  # ISO 8601, UTC
    seconds: dict[str, float] = field(default_factory=dict)  # train, evaluate, runtime
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(vars(self), default=vars, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "trial record") -> TrialRecord:
        try:
            values = json.loads(text)
            if values.get("schema") != SCHEMA:
                raise UserError(
                    f"{where}: schema {values.get('schema')!r} is not {SCHEMA}; made by another vodbench version"
                )
            detections = values.get("detections")
            if detections is not None and (detections.startswith("/") or ".." in detections.split("/")):
                raise UserError(
                    f"{where}: detections '{detections}' are not inside the study folder; delete the record"
                )
            accuracy, runtime = values.pop("accuracy", None), values.pop("runtime", None)
            return cls(
                accuracy=Accuracy(**accuracy) if accuracy else None,
                runtime=Runtime(**runtime) if runtime else None,
                **values,
            )
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise UserError(f"{where} is damaged ({error}); delete it to run the trial again") from error
