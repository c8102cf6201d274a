"""Constants behind a sweep's times: what a training, a pass and a measurement take beyond the work in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vodbench.plan.costs import FrameRate
from vodbench.records import TrialRecord
from vodbench.timing.runtime import REPEATS

RAMP = 0.1  # of a training's points: until then it may still be starting

Floats64 = npt.NDArray[np.float64]


def fitted_training(seconds: float, history: Sequence[Mapping[str, float]], batch_size: int) -> tuple[float, float]:
    """(seconds once, seconds a clip) of a stage that took ``seconds`` in all, by the speeds of its curve.

    Its first clips come from a data pipeline that is still starting. In a short training that is much of the whole: a
    longer one, whose time were taken in proportion, would seem to take as much of it again.
    """
    steps = np.diff([0.0, *(point["iteration"] for point in history)])
    clips = steps * batch_size
    if len(clips) < 2:
        return 0.0, seconds / max(float(clips.sum()), 1.0)
    first = max(1, round(RAMP * len(clips)))
    early = float(sum(clips[i] / history[i]["clips_per_second"] for i in range(first)))
    clip_s = max(0.0, seconds - early) / float(clips[first:].sum())
    start = max(0.0, early - clip_s * float(clips[:first].sum()))
    return start, (seconds - start) / float(clips.sum())


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
    """(seconds a measurement, passes over the sampled frames that it takes where nothing disturbs it).

    ``Runtime.num_frames`` counts ``REPEATS`` of those passes. Where rounds were disturbed, and repeated, so much more
    was done: how often that happens is of the moment, not of the study.
    """
    measured = [record.runtime for record in records if record.runtime]
    repeated = [(runtime.rounds or REPEATS) / REPEATS for runtime in measured]
    sampled = [r.num_frames * r.mean_ms / 1e3 / REPEATS * times for r, times in zip(measured, repeated, strict=True)]
    taken = [record.seconds["runtime"] for record in records]
    start, passes = _not_negative(np.array([[1.0, s] for s in sampled]), np.array(taken))
    return start, max(passes, 1e-3)


def _not_negative(rows: Floats64, wanted: Floats64) -> tuple[float, float]:
    """The two coefficients, none below 0, that explain ``wanted`` best (least squares)."""
    from scipy.optimize import nnls

    start, slope = nnls(rows, np.maximum(wanted, 0.0))[0]
    return float(start), float(slope)
