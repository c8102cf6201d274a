"""The points of a speed-accuracy front, made from the trial records of a study folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.errors import UserError
from vodbench.front.pareto import pareto_front
from vodbench.records import Accuracy, Runtime, TrialRecord
from vodbench.storage import filesystem, join, reaching, write_text
from vodbench.studies.constraints import Constraint, violated
from vodbench.sweeps.folder import StudyFolder


@dataclass(frozen=True, kw_only=True)
class Point:
    """One complete trial with both objectives, and whether no other trial beats it on both."""

    record: TrialRecord
    accuracy: Accuracy
    runtime: Runtime
    on_front: bool
    feasible: bool = True  # it keeps to the study's constraints

    @property
    def label(self) -> str:
        """Method and swept knobs in words, e.g. ``rdn T=2 K=6 r=20``."""
        return trial_label(self.record)


def trial_label(record: TrialRecord) -> str:
    return " ".join([record.method, *(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                                      for name, value in record.knobs.items())])  # fmt: skip


def load_trials(out: str) -> list[TrialRecord]:
    """All trial records below a study folder, by number of appearance; ``UserError`` when there are none."""
    fs, path = filesystem(out)
    with reaching(out):
        there = fs.isdir(path)
    if not there:
        raise UserError(f"'{out}' is not a folder; give the --out folder of a 'vodbench sweep'")
    records = StudyFolder(out).records().values()
    if not records:
        raise UserError(f"'{out}' holds no trials (trials/*/trial.json); give the --out folder of a 'vodbench sweep'")
    return sorted(records, key=lambda record: (record.started, record.fingerprint))


def measured_points(
    records: Sequence[TrialRecord], constraints: Sequence[Constraint] = (), *, feasible_only: bool = False
) -> list[Point]:
    """Complete trials by rising runtime. Failed trials have no place on a front.

    Points say whether they keep to ``constraints``; with ``feasible_only`` the front is that of the ones that do.
    """
    complete = [r for r in records if r.status == "complete" and r.accuracy is not None and r.runtime is not None]
    points = []
    marks = pareto_front(complete, constraints if feasible_only else ())
    for record, on_front in zip(complete, marks, strict=True):
        assert record.accuracy is not None
        assert record.runtime is not None
        feasible = not violated(record, constraints)
        points.append(
            Point(record=record, accuracy=record.accuracy, runtime=record.runtime, on_front=on_front, feasible=feasible)
        )
    return sorted(points, key=lambda point: point.runtime.mean_ms)


def front_json(points: Sequence[Point]) -> dict[str, Any]:
    """The front as plain values, for scripts and for ``front.json``."""
    return {
        "front": [_plain(point) for point in points if point.on_front],
        "dominated": [_plain(point) for point in points if not point.on_front],
    }


def write_front_json(out: str, points: Sequence[Point]) -> str:
    url = join(out, "front.json")
    write_text(url, json.dumps(front_json(points), indent=1))
    return url


def _plain(point: Point) -> dict[str, Any]:
    accuracy, runtime = point.accuracy, point.runtime
    return {
        "trial": point.record.fingerprint,
        "label": point.label,
        "method": point.record.method,
        "knobs": point.record.knobs,
        "seed": point.record.seed,
        "map": accuracy.map,
        "map_low": accuracy.low,
        "map_high": accuracy.high,
        "runtime_ms": runtime.mean_ms,
        "runtime_ms_low": runtime.low_ms,
        "runtime_ms_high": runtime.high_ms,
        "contended": runtime.contended,
        "feasible": point.feasible,
    }
