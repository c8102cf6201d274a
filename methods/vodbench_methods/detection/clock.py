"""A clock for callers that do not time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class NullClock:
    """Implements ``vodbench.spec.Clock`` and measures nothing."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()
