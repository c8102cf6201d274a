"""Where features are kept, how exactly, and how many."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from vodbench.errors import UserError

Precision = Literal["fp32", "fp16"]

GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """One pass's use of a feature cache; travels to its workers.

    ``began`` is when the pass began (seconds since the epoch): what was used since then is not evicted by it. A pass
    that does not fit would otherwise throw out each snippet just before the next pass wants it.
    """

    url: str  # folder or fsspec URL, reached by all workers
    precision: Precision = "fp32"
    budget_bytes: int = 10 * GB
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.budget_bytes < 1:
            raise UserError(
                f"a feature cache of {self.budget_bytes} bytes is not accepted: give a budget above 0, or no cache"
            )
