"""The one table of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faults_invariants import Verdict

COLUMNS = ("fault", "times", "starts", "lost", "repeated", "wrong")


@dataclass(frozen=True)
class Row:
    """A fault, how often it struck, how often the command was given, and what came of it."""

    fault: str
    times: int
    starts: int
    verdict: Verdict

    @property
    def cells(self) -> tuple[str, ...]:
        found = (self.verdict.lost, self.verdict.repeated, self.verdict.wrong)
        return (self.fault, str(self.times), str(self.starts), *(str(len(lines)) for lines in found))


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Its lines, the heading first: text to the left, numbers to the right. ``rows``: the cells of each."""
    cells = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
