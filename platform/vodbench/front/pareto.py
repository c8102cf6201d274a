"""Non-domination on two objectives: accuracy up, runtime down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vodbench.records import TrialRecord
from vodbench.studies.constraints import Constraint, violated


def pareto_front(records: Sequence[TrialRecord], constraints: Sequence[Constraint] = ()) -> list[bool]:
    """Which records no other record beats: is at least as good on both objectives and better on one.

    A record without both figures (failed, or not timed) is never on the front. Equal points are all on it. With
    ``constraints``, records that break one neither are on the front nor beat others.
    """
    complete = [i for i, r in enumerate(records) if r.status == "complete" and r.accuracy and r.runtime]
    measured = [i for i in complete if not violated(records[i], constraints)]
    accuracy = np.array([a.map for i in measured if (a := records[i].accuracy)], dtype=np.float64)
    runtime_ms = np.array([t.mean_ms for i in measured if (t := records[i].runtime)], dtype=np.float64)
    on_front = [False] * len(records)
    for i, mark in zip(measured, non_dominated(accuracy, runtime_ms), strict=True):
        on_front[i] = bool(mark)
    return on_front


def non_dominated(gain: npt.NDArray[np.float64], cost: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mask (N,) of the points that no other point dominates; higher ``gain`` and lower ``cost`` are better.

    O(N log N): by rising cost, a point is on the front when it beats every cheaper point's gain. A NaN on either
    objective is dominated.
    """
    gain = np.where(np.isnan(gain) | np.isnan(cost), -np.inf, gain)
    order = np.lexsort((-gain, cost))
    sorted_gain, sorted_cost = gain[order], cost[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(sorted_gain)[:-1]])[: len(gain)]
    better = sorted_gain > best_before
    # Twins of a front point (equal on both) follow it directly in this order: they belong to the front as well.
    differs = (sorted_cost[1:] != sorted_cost[:-1]) | (sorted_gain[1:] != sorted_gain[:-1])
    group = np.cumsum(np.concatenate([[True], differs])[: len(gain)])
    mask = np.empty(len(gain), dtype=np.bool_)
    mask[order] = np.isin(group, group[better])
    return mask
