"""How far a search has come, as one number after each trial: the hypervolume of its front so far.

It is taken over mAP and the logarithm of the runtime, against the reference point (mAP 0, 10 s a frame), and divided by
that of a perfect detector that needs 1 ms a frame. In other words: the mean, over budgets from 1 ms to 10 s a frame
spread evenly on a logarithmic scale, of the best mAP that some trial has within the budget.

No trial of the study has a part in the reference point. So figures do not change when a study is continued, and those
of two studies whose runtimes come from the same device can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from vodbench.errors import UserError
from vodbench.records import TrialRecord
from vodbench.storage import join, text_if_there, write_text
from vodbench.tracking.content import ended_ms

FASTEST_MS = 1.0
SLOWEST_MS = 10_000.0

FILE = "hypervolume.json"


@dataclass(frozen=True, slots=True)
class Step:
    """The hypervolume when a complete trial had ended."""

    trial: str  # fingerprint
    ended_ms: int  # since 1970
    hypervolume: float


def hypervolume(gain: npt.ArrayLike, cost_ms: npt.ArrayLike) -> float:
    """Of points with mAP ``gain`` (N,) in [0, 1] and mean runtimes ``cost_ms`` (N,): in [0, 1]. NaN counts nothing."""
    gain, cost_ms = np.asarray(gain, np.float64), np.asarray(cost_ms, np.float64)
    known = ~(np.isnan(gain) | np.isnan(cost_ms))
    place = np.log10(np.clip(cost_ms[known], FASTEST_MS, SLOWEST_MS))
    order = np.argsort(place, kind="stable")
    best = np.maximum.accumulate(gain[known][order])
    widths = np.diff(place[order], append=np.log10(SLOWEST_MS))
    return float(best @ widths / np.log10(SLOWEST_MS / FASTEST_MS))


def history(out: str, records: Sequence[TrialRecord]) -> list[Step]:
    """A step for each complete trial of a study folder, in the order in which they ended.

    The folder's file knows the order of those that it has seen: times of records are too coarse for trials side by
    side. What was a step once stays that step.
    """
    complete = {r.fingerprint: r for r in records if r.status == "complete" and r.accuracy and r.runtime}
    seen = [trial for trial in _order(out) if trial in complete]
    new = sorted(complete.keys() - set(seen), key=lambda trial: (_ended_ms(complete[trial]), trial))
    ordered = [complete[trial] for trial in (*seen, *new)]
    steps: list[Step] = []
    front: list[tuple[float, float]] = []  # of those so far: no other point counts, and most trials do not change it
    value = 0.0
    for record in ordered:
        assert record.accuracy is not None
        assert record.runtime is not None
        gain, cost_ms = record.accuracy.map, record.runtime.mean_ms
        if not any(other >= gain and ms <= cost_ms for other, ms in front):
            front = [(other, ms) for other, ms in front if not (gain >= other and cost_ms <= ms)] + [(gain, cost_ms)]
            value = hypervolume(*zip(*front, strict=True))
        steps.append(Step(record.fingerprint, _ended_ms(record), value))
    return steps


def write_history(out: str, records: Sequence[TrialRecord]) -> list[Step]:
    """Bring ``hypervolume.json`` of a study folder up to date; what it says now."""
    steps = history(out, records)
    values = {
        "reference": {"map": 0.0, "runtime_ms": SLOWEST_MS, "fastest_ms": FASTEST_MS},
        "steps": [asdict(step) for step in steps],
    }
    write_text(join(out, FILE), json.dumps(values, indent=1))
    return steps


def _ended_ms(record: TrialRecord) -> int:
    return ended_ms(record) if record.started else 0  # a record need not say when


def _order(out: str) -> list[str]:
    where = join(out, FILE)
    text = text_if_there(where)
    if text is None:
        return []
    try:
        values: Mapping[str, Sequence[Mapping[str, str]]] = json.loads(text)
        return [step["trial"] for step in values["steps"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"'{where}' is damaged ({error}); delete it, it is made again from the trials") from error
