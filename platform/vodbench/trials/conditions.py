"""Under which conditions a trial was judged and timed: only trials of the same ones compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vodbench.trials.stored import StoredTrial

_NAMED = 4  # studies of one kind that a message names


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What two trials must share before they can stand on one plot.

    A CPU does not say its model, so trials of two machines' CPUs look alike here.
    """

    data: str  # fingerprint
    split: str
    snippets: int  # that accuracy was taken on; 0 where the record does not say
    protocol: str
    device: str
    threads: int

    def words(self) -> str:
        """In one line, e.g. ``data 1f0c, split val, 24 snippets, ilsvrc; cpu, 1 thread``."""
        return (
            f"data {self.data or 'unknown'}, split {self.split}, {self.snippets} snippets, {self.protocol}; "
            f"{self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"
        )

    def differences(self, other: Conditions) -> list[str]:
        """Each difference in words, e.g. ``protocol voc instead of ilsvrc``."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name} {ours or 'unknown'} instead of {theirs or 'unknown'}" for name, ours, theirs in pairs
                if ours != theirs]  # fmt: skip


def grouped(trials: Iterable[StoredTrial]) -> dict[Conditions, list[StoredTrial]]:
    """Trials by their conditions, those with the most trials first."""
    groups: dict[Conditions, list[StoredTrial]] = {}
    for trial in trials:
        groups.setdefault(trial.conditions, []).append(trial)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def incomparable(groups: dict[Conditions, list[StoredTrial]]) -> str | None:
    """One line that says which studies do not compare with the others and why; None when all do."""
    if len(groups) < 2:
        return None
    (reference, most), *others = groups.items()
    lines = [f"{_names(trials)} ({len(trials)} trials): {', '.join(c.differences(reference))}" for c, trials in others]
    return f"not all trials compare with those of {_names(most)}; {'; '.join(lines)}"


def _names(trials: Iterable[StoredTrial]) -> str:
    names = list(dict.fromkeys(trial.study_name for trial in trials))
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)
