"""Configurations: the trials that differ in their seed alone, as one point."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vodbench.trials.stored import StoredTrial


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One setting of a method under one set of conditions: figures are means over its seeds.

    ``low``/``high`` of both axes are the means of the seeds' own 95% intervals. All seeds are judged on the same
    snippets, so the interval of their mean is at most that wide. A runtime that was taken on a busy device counts only
    where there is no other; then the configuration is ``contended``.
    """

    trials: tuple[StoredTrial, ...]  # one a seed, by seed; never empty
    copies: tuple[StoredTrial, ...]  # those, and the same trials in other studies

    @property
    def studies(self) -> tuple[str, ...]:
        """Names of the study folders that hold one of its trials."""
        return tuple(dict.fromkeys(trial.study_name for trial in self.copies))

    @property
    def method(self) -> str:
        return self.trials[0].record.method

    @property
    def config(self) -> Mapping[str, Any]:
        return self.trials[0].record.config

    @property
    def knobs(self) -> Mapping[str, Any]:
        """The knobs that its study swept."""
        return self.trials[0].record.knobs

    @property
    def name(self) -> str:
        """Method and swept knobs, e.g. ``rdn T=2 r=20``; ``labels`` tells several apart."""
        return f"{self.method} {written(self.knobs)}".strip()

    def figures(self) -> dict[str, Any]:
        """What it is and what it costs, as plain values for scripts."""
        return {
            "method": self.method,
            "config": dict(self.config),
            "seeds": list(self.seeds),
            "trials": [trial.url for trial in self.trials],
            "runtime_ms": self.mean_ms,
            "runtime_ms_low": self.low_ms,
            "runtime_ms_high": self.high_ms,
            "contended": self.contended,
        }

    @property
    def latency_frames(self) -> int | None:
        """None: final only when the snippet ends."""
        return self.trials[0].runtime.latency_frames

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(trial.record.seed for trial in self.trials)

    @property
    def map(self) -> float:
        return fmean(trial.accuracy.map for trial in self.trials)

    @property
    def low(self) -> float:
        return fmean(trial.accuracy.low for trial in self.trials)

    @property
    def high(self) -> float:
        return fmean(trial.accuracy.high for trial in self.trials)

    @property
    def contended(self) -> bool:
        return all(trial.runtime.contended for trial in self.trials)

    @property
    def timed(self) -> tuple[StoredTrial, ...]:
        """The trials whose runtime counts."""
        idle = tuple(trial for trial in self.trials if not trial.runtime.contended)
        return idle or self.trials

    @property
    def mean_ms(self) -> float:
        return fmean(trial.runtime.mean_ms for trial in self.timed)

    @property
    def low_ms(self) -> float:
        return fmean(trial.runtime.low_ms for trial in self.timed)

    @property
    def high_ms(self) -> float:
        return fmean(trial.runtime.high_ms for trial in self.timed)

    @property
    def p95_ms(self) -> float:
        return fmean(trial.runtime.p95_ms for trial in self.timed)


def written(settings: Mapping[str, Any]) -> str:
    """``T=2 r=20 keys=adaptive``"""
    return " ".join(f"{name}={f'{v:g}' if isinstance(v, float) else v}" for name, v in settings.items())


def configurations(trials: Iterable[StoredTrial]) -> list[Configuration]:
    """The configurations of trials under the same conditions, by rising runtime.

    A trial that several studies hold (the base setting of several tables) is taken once: the one whose device was idle,
    or else the first.
    """
    by_seed: dict[str, dict[int, StoredTrial]] = {}
    copies: dict[str, list[StoredTrial]] = {}
    for trial in trials:
        record = trial.record
        # The training split is no part of a configuration, but two of them make two sets of weights.
        key = json.dumps([record.method, record.config, trial.study.data.train], sort_keys=True)
        seeds = by_seed.setdefault(key, {})
        held = seeds.get(record.seed)
        if held is None or (held.runtime.contended and not trial.runtime.contended):
            seeds[record.seed] = trial
        copies.setdefault(key, []).append(trial)
    found = [
        Configuration(trials=tuple(seeds[seed] for seed in sorted(seeds)), copies=tuple(copies[key]))
        for key, seeds in by_seed.items()
    ]
    return sorted(found, key=lambda configuration: configuration.mean_ms)
