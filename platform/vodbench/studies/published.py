"""Published figures as points: where a paper put its own trials on accuracy and runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from vodbench.errors import UserError, unknown
from vodbench.records import TrialRecord
from vodbench.studies.loading import PUBLISHED_FILE, studies_folder
from vodbench.studies.model import PublishedTable, Study

# Columns that are results or remarks; every other column is a setting of the row.
_FIGURES = ("map50", "runtime_ms", "fps", "fps_titan_x", "fps_k40", "fast", "medium", "slow", "note")
# Columns that say what a method is built on; they are no setting of ours.
_MOTION = ("slow", "medium", "fast")
_DESCRIPTIONS = ("detector",)


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One published figure. ``map`` in [0, 1] at IoU 0.5; runtimes belong to the paper's own hardware."""

    label: str
    method: str
    settings: Mapping[str, Any]
    map: float | None  # None: the table splits it by motion only
    runtime_ms: float | None
    source: str
    hardware: str = ""
    note: str = ""
    motion: Mapping[str, float] = field(default_factory=dict)

    def matches(self, record: TrialRecord) -> bool:
        """The record is this method with every setting that the row names."""
        wanted = {name: value for name, value in self.settings.items() if name not in _DESCRIPTIONS}
        return record.method == self.method and all(
            name in record.config and record.config[name] == value for name, value in wanted.items()
        )


def published_points(study: Study) -> list[PublishedPoint]:
    """Every point that the study's ``published`` refers to; ``UserError`` for a table or column that is not there."""
    return [point for reference in study.published for point in _points(reference)]


@cache
def _papers() -> dict[str, Any]:
    papers: dict[str, Any] = yaml.safe_load((studies_folder() / PUBLISHED_FILE).read_text(encoding="utf-8"))
    return papers


def _points(reference: PublishedTable) -> Iterator[PublishedPoint]:
    paper_name, _, table_name = reference.table.partition(".")
    papers = _papers()
    if paper_name not in papers:
        raise unknown("published paper", paper_name, papers)
    paper = papers[paper_name]
    tables = [name for name, value in paper.items() if _is_table(value)]
    if table_name not in tables:
        raise unknown(f"table of {paper_name}", table_name, tables)
    rows = _rows(paper[table_name])
    columns = {column for row in rows for column in row}  # a row of a list says only what is its own
    for column in reference.where:
        if column not in columns:
            raise unknown(f"column of {reference.table}", column, columns)
    for row in rows:
        fits = all(column in row and row[column] == value for column, value in reference.where.items())
        if fits and _has_accuracy(row):
            yield _point(reference, row, paper)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, dict) and "map50" in value)


def _has_accuracy(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) is not None for name in ("map50", *_MOTION))


def _rows(table: Any) -> list[dict[str, Any]]:
    """A list of rows as it is; a mapping of columns (lists of one length, or one value for all) turned into rows."""
    if isinstance(table, list):
        return [dict(row) for row in table]
    length = len(table["map50"])
    columns = {name: value if isinstance(value, list) else [value] * length for name, value in table.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _point(reference: PublishedTable, row: dict[str, Any], paper: Mapping[str, Any]) -> PublishedPoint:
    method = reference.method or row.get("method")
    if method is None:
        raise UserError(f"published table {reference.table} does not name its method; add 'method: ...' beside 'table'")
    settings = {name: value for name, value in row.items() if name not in _FIGURES and name != "method"}
    if reference.knobs is not None:
        settings = dict(reference.knobs)
    if "backbone" in settings:  # the papers' spelling: resnext101-64x4d
        settings["backbone"] = settings["backbone"].replace("-", "_")
    written = " ".join(f"{name}={value}" for name, value in settings.items())
    runtime = row.get("runtime_ms")
    if runtime is None and row.get("fps"):
        runtime = 1000.0 / row["fps"]
    return PublishedPoint(
        label=f"{row.get('method', method)} {written}".strip(),
        method=method,
        settings=settings,
        map=_share(row.get("map50")),
        runtime_ms=runtime,
        source=f"{paper['source']}, {reference.table.partition('.')[2]}",
        hardware=str(paper.get("hardware", "")),
        note=str(row.get("note", "")),
        motion={name: round(row[name] / 100.0, 6) for name in _MOTION if name in row},
    )


def _share(percent: float | None) -> float | None:
    return None if percent is None else round(percent / 100.0, 6)
