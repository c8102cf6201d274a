"""Names of configurations that tell them apart and say no more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vodbench.trials.configurations import Configuration, written


def labels(configurations: Sequence[Configuration]) -> list[str]:
    """Method and swept knobs, and each other setting that is not the one most configurations of the method have.

    Configurations that differ in a setting have different labels.
    """
    usual = {method: _usual(configurations, method) for method in {c.method for c in configurations}}
    return [_label(c, usual[c.method]) for c in configurations]


def _label(configuration: Configuration, usual: Mapping[str, Any]) -> str:
    config, swept = configuration.config, dict(configuration.knobs)
    others = {n: v for n, v in config.items() if n in usual and n not in swept and v != usual[n]}
    return f"{configuration.method} {written({**swept, **others})}".strip()


def _usual(configurations: Sequence[Configuration], method: str) -> dict[str, Any]:
    """The most frequent value of each setting in which the method's configurations differ."""
    configs = [c.config for c in configurations if c.method == method]
    usual = {}
    for name in configs[0]:
        counts = Counter(json.dumps(config.get(name)) for config in configs)
        if len(counts) > 1:
            usual[name] = json.loads(counts.most_common(1)[0][0])
    return usual
