"""What earlier studies teach a search: those of their trials that are comparable with this study's.

Comparable means: a point of this study's space, on the same data, splits, snippets and protocol, timed on the same
device with as many threads. Seeds may differ: a point's figures are the means over those it was run with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vodbench.errors import UserError
from vodbench.records import TrialRecord
from vodbench.storage import filesystem
from vodbench.studies import MethodSpace, Study, method_spaces
from vodbench.sweeps.folder import StudyFolder
from vodbench.sweeps.places import Place, objectives
from vodbench.sweeps.steps import TrialContext
from vodbench.tracking.content import run_name


@dataclass(frozen=True)
class EarlierPoint:
    """A point of this study's space with its records in earlier ones, one a seed and study."""

    place: Place
    records: list[TrialRecord] = field(default_factory=list)


@dataclass(frozen=True)
class EarlierStudy:
    """A finished or interrupted study, whose trials may teach."""

    url: str
    study: Study
    records: list[TrialRecord]


def earlier_studies(context: TrialContext) -> list[EarlierStudy]:
    """The studies that ``search.warm_start`` names. ``UserError`` for a folder that holds none, and for the own one."""
    found = []
    for url in dict.fromkeys(context.study.search.warm_start):
        folder = StudyFolder(url)
        if filesystem(url)[1] == filesystem(context.folder)[1]:
            raise UserError(
                f"warm_start: '{url}' is this study's own folder, whose trials are known anyway; leave it out"
            )
        records = sorted(folder.records().values(), key=lambda r: (r.started, r.fingerprint))
        found.append(EarlierStudy(url, folder.study(), records))
    return found


def what_they_teach(
    earlier: Sequence[EarlierStudy], context: TrialContext, device: str | None
) -> tuple[list[EarlierPoint], list[str]]:
    """The points that this study can learn from, and lines that say how many trials were used and why others not.

    ``device``: what this study's runtimes are taken on, as records name it; None where that is not known yet.
    """
    spaces = method_spaces(context.study)
    points: dict[str, EarlierPoint] = {}
    lines: list[str] = []
    for study in earlier:
        refused: dict[str, list[TrialRecord]] = defaultdict(list)
        for record in study.records:
            answer = _objection(study, record, context, device) or _place(record, spaces)
            if isinstance(answer, str):
                refused[answer].append(record)
            else:
                name = json.dumps([answer.entry, answer.drawn], sort_keys=True)
                points.setdefault(name, EarlierPoint(answer)).records.append(record)
        lines += _lines(study, refused)
    return list(points.values()), lines


def _objection(study: EarlierStudy, record: TrialRecord, context: TrialContext, device: str | None) -> str | None:
    """Why the figures of a record are not comparable with this study's, if they are not."""
    if objectives([record]) is None:
        return "it has no figures"
    assert record.runtime is not None
    there, here = study.study, context.study
    compared = {
        "protocol": (there.accuracy.protocol, here.accuracy.protocol),
        "accuracy.snippets": (there.accuracy.snippets, here.accuracy.snippets),
        "data.train": (there.data.train, here.data.train),
        "data.val": (there.data.val, here.data.val),
        "data fingerprint": (record.data_fingerprint, context.data_fingerprint),
        "runtime.threads": (there.runtime.threads, here.runtime.threads),
        "device": (record.runtime.device, device or record.runtime.device),
    }
    return _first_difference(compared)


def _place(record: TrialRecord, spaces: Sequence[MethodSpace]) -> Place | str:
    """Where the record lies in this study's space, or why it does not."""
    reason = f"{record.method} is no method of this study"
    for entry, space in enumerate(spaces):
        if space.spec.name == record.method:
            answer = _drawn(record.config, space)
            if not isinstance(answer, str):
                return Place(entry, answer)
            reason = answer
    return reason


def _drawn(config: Mapping[str, Any], space: MethodSpace) -> Mapping[str, Any] | str:
    base = space.base
    if changed := config.keys() ^ base.knobs().keys():
        return f"another version made it, with other knobs ({', '.join(sorted(changed))})"
    mattering = [knob for knob in space.knobs if base.matters(knob.name, config)]
    if outside := [knob.name for knob in mattering if knob.encode(config[knob.name]) is None]:
        return f"its {' and '.join(outside)} lies outside this study's values"
    drawn = {knob.name: knob.encode(config[knob.name]) for knob in mattering}
    here = space.decode(drawn).config.effective_settings()
    there = {name: value for name, value in config.items() if base.matters(name, config)}
    return _first_difference({name: (there.get(name), here.get(name)) for name in (*here, *there)}) or drawn


def _first_difference(compared: Mapping[str, tuple[Any, Any]]) -> str | None:
    return next((f"{name} is {a} there and {b} here" for name, (a, b) in compared.items() if a != b), None)


def _lines(study: EarlierStudy, refused: Mapping[str, Sequence[TrialRecord]]) -> Iterator[str]:
    total = len(study.records)
    yield f"warm start: {total - sum(map(len, refused.values()))} of {total} trials of '{study.url}' are used"
    for reason, records in refused.items():
        others = f" and {len(records) - 1} more" if len(records) > 1 else ""
        yield f"warm start: not used: {run_name(records[0])}{others}: {reason}"
