"""The values of one knob of a study, and how Optuna draws from them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vodbench.errors import UserError
from vodbench.knobs import AtLeast, Need, meets
from vodbench.studies.model import Range

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class KnobValues:
    """The values of one knob: a list (sorted when numeric) or a range."""

    name: str
    values: tuple[Any, ...] | Range
    integer: bool

    def grid(self) -> tuple[Any, ...]:
        """All values; ``UserError`` for a range without a step."""
        if not isinstance(self.values, Range):
            return self.values
        low, high, step = self.values.low, self.values.high, self.values.step
        if step is None:
            raise UserError(f"knob {self.name}: a grid needs the range's 'step', or a list of values")
        count = math.floor((high - low) / step + 1e-9) + 1
        # Twelve digits undo the binary error of low + i * step (0.1 + 2 * 0.1 is 0.3).
        return tuple(self._typed(float(f"{low + i * step:.12g}")) for i in range(count))

    def first(self) -> Any:
        """The first of the list, or the low end of the range."""
        return self._typed(self.values.low) if isinstance(self.values, Range) else self.values[0]

    def may_meet(self, need: Need) -> bool:
        """Whether one of these values may be what another knob needs; of a range, as far as its ends tell."""
        if not isinstance(self.values, Range):
            return any(meets(value, need) for value in self.values)
        if isinstance(need, AtLeast):
            return self.values.high >= need.value
        return any(self.encode(value) is not None for value in need)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """What Optuna draws from: numbers of a list by their rank (so that order counts), names as categories."""
        from optuna import distributions as d

        if isinstance(self.values, Range):
            low, high, step, log = self.values.low, self.values.high, self.values.step, self.values.log
            if self.integer:
                return d.IntDistribution(int(low), int(high), log=log, step=int(step or 1))
            return d.FloatDistribution(low, high, log=log, step=step)
        if self._ranked:
            return d.IntDistribution(0, len(self.values) - 1)
        return d.CategoricalDistribution([json.dumps(value) for value in self.values])

    def decode(self, drawn: Any) -> Any:
        """The knob's value that Optuna's ``drawn`` stands for."""
        if isinstance(self.values, Range):
            return self._typed(drawn)
        return self.values[drawn] if self._ranked else json.loads(drawn)

    def encode(self, value: Any) -> Any | None:
        """The inverse of ``decode``; None for a value outside these."""
        if isinstance(self.values, Range):
            return value if self._in_range(value, self.values) else None
        if value not in self.values:
            return None
        return self.values.index(value) if self._ranked else json.dumps(value)

    def _in_range(self, value: Any, values: Range) -> bool:
        """Optuna takes no value beside a step, which a record of an earlier state of the study may hold."""
        if not isinstance(value, (int, float)) or not values.low <= value <= values.high:
            return False
        step = values.step or (1 if self.integer and not values.log else None)
        steps = 0.0 if step is None else (value - values.low) / step
        return abs(steps - round(steps)) < 1e-8

    @property
    def _ranked(self) -> bool:
        return not isinstance(self.values, Range) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in self.values
        )

    def _typed(self, value: float) -> float:
        return round(value) if self.integer else value
