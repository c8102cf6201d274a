"""A point of a search: where it lies, and what came out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.records import TrialRecord


@dataclass(frozen=True)
class Place:
    """A point as Optuna draws it: an entry of the study, and a value for each of its swept knobs that matters."""

    entry: int
    drawn: Mapping[str, Any]


def objectives(records: Sequence[TrialRecord]) -> tuple[float, float] | None:
    """(mAP, mean ms), each the mean over seeds; None without records, or when one has no finite figures."""
    pairs = [(r.accuracy.map, r.runtime.mean_ms) for r in records if r.accuracy and r.runtime]
    if not pairs or len(pairs) < len(records) or not all(math.isfinite(value) for pair in pairs for value in pair):
        return None
    maps, runtimes_ms = zip(*pairs, strict=True)
    return math.fsum(maps) / len(pairs), math.fsum(runtimes_ms) / len(pairs)
