"""Constants behind a sweep's times: what a pass and a measurement take beyond the work in them, by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vodbench.plan.costs import FrameRate
from vodbench.records import TrialRecord
from vodbench.timing.runtime import REPEATS

Floats64 = npt.NDArray[np.float64]


def fitted_passes(passes: Sequence[Mapping[str, Any]], frames: Mapping[str, FrameRate]) -> tuple[float, float, float]:
    """(seconds a pass, process-seconds a frame and trial, seconds more of the first), none below 0.

    What a pass takes beyond the method's own times, by least squares.
    """
    rows, rest = [], []
    known = [noted for noted in passes if all(name in frames for name in _names(noted))]
    for noted in known:
        names, workers = _names(noted), float(noted["workers"])
        computed = float(noted["frames"])  # one counted once for each trial
        rates = [frames[name] for name in names]
        encode = max(rate.encode_ms or 0.0 for rate in rates)
        own = sum(rate.own_ms or 0.0 for rate in rates)
        inside = computed / len(names) * (encode + own) / 1e3 / workers
        rows.append([1.0, computed / workers])
        rest.append(float(noted["seconds"]) - inside)
    if not rows:
        return 0.0, 0.0, 0.0
    first = int(np.argmax(rest)) if len(rows) > 1 else None  # its workers had torch to import
    others = [i for i in range(len(rows)) if i != first]
    start, part = _not_negative(np.array([rows[i] for i in others]), np.array([rest[i] for i in others]))
    more = 0.0 if first is None else max(0.0, rest[first] - start - part * rows[first][1])
    return start, part, more


def _names(noted: Mapping[str, Any]) -> list[str]:
    names = noted["trials"]
    assert isinstance(names, list)
    return names


def fitted_measurements(records: Sequence[TrialRecord]) -> tuple[float, float]:
    """(seconds a measurement, passes over the sampled frames): ``Runtime.num_frames`` counts three of those."""
    sampled = [r.runtime.num_frames * r.runtime.mean_ms / 1e3 / REPEATS for r in records if r.runtime]
    taken = [record.seconds["runtime"] for record in records]
    start, passes = _not_negative(np.array([[1.0, s] for s in sampled]), np.array(taken))
    return start, max(passes, 1e-3)


def _not_negative(rows: Floats64, wanted: Floats64) -> tuple[float, float]:
    """The two coefficients, none below 0, that explain ``wanted`` best (least squares)."""
    from scipy.optimize import nnls

    start, slope = nnls(rows, np.maximum(wanted, 0.0))[0]
    return float(start), float(slope)
