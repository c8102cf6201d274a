"""The study file's model: what is swept, on which data, judged how. Strict: an unknown key is an error.

A study is plain data; nothing here looks at methods or data. ``vodbench.studies.space`` holds its knobs against the
methods' configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, model_validator

from vodbench.studies.searching import Search
from vodbench.studies.strict import Strict


class Data(Strict):
    """Where the video is. ``root`` may be left to ``--data``; without either, ``generate`` makes the data.

    ``generate``: settings of the generator (``vodbench data generate --help``), in the study's own folder.
    """

    root: str | None = None
    generate: dict[str, Any] | None = None
    dataset: str = "auto"
    train: str = "train"
    val: str = "val"
    options: dict[str, Any] = Field(default_factory=dict)


class Range(Strict):
    """All values of a knob from ``low`` to ``high``, both included. A grid needs ``step``; a search may do without."""

    low: float
    high: float
    step: float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a range is logarithmic or has a step, not both; leave one out")
        return self


def _as_space(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value:
        return tuple(value)
    if isinstance(value, (Mapping, Range)):
        return value
    raise ValueError(
        f"{value!r} is no set of values; give a list such as [1, 2] or a range such as {{low: 1, high: 9, step: 2}}, "
        "and put a single value under 'settings'"
    )


def _range_or_list(value: Any) -> Any:
    space = _as_space(value)
    return Range.model_validate(space) if isinstance(space, Mapping) else space


KnobSpace = Annotated[Any, pydantic.BeforeValidator(_range_or_list)]  # Range | tuple of values


class MethodEntry(Strict):
    """One method of a study: fixed settings, and the knobs that are swept."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    knobs: dict[str, KnobSpace] = Field(default_factory=dict)


class AccuracySettings(Strict):
    """The protocol of mAP, how often its snippets are resampled, and on how many snippets it is taken."""

    protocol: Literal["ilsvrc", "voc", "coco"] = "ilsvrc"
    bootstrap: int = Field(default=1000, ge=0)
    snippets: Annotated[int, Field(ge=1)] | Literal["all"] = "all"


class RuntimeSettings(Strict):
    """On how many whole snippets the runtime is taken, with how many CPU threads, on which device."""

    snippets: int = Field(default=3, ge=1)
    threads: int = Field(default=1, ge=1)
    device: str = "auto"


class Cache(Strict):
    """Where a frame's features are kept for further trials of the same weights: fp32 (exact), fp16, or off.

    Without ``url`` that is below the study's folder, and only where trials are detected one by one (in a search, or
    several at a time): a grid is detected in one pass. Above ``budget_gb`` the least recently used snippets go.
    """

    url: str | None = None
    dtype: Literal["fp32", "fp16", "off"] = "fp32"
    budget_gb: float = Field(default=10.0, gt=0)


class Workers(Strict):
    """Processes of one training and CPU threads of each, processes of one evaluation, trials at the same time."""

    training: int = Field(default=1, ge=1)
    training_threads: int = Field(default=1, ge=1)
    evaluation: int = Field(default=1, ge=1)
    concurrent_trials: int = Field(default=1, ge=1)


class PublishedTable(Strict):
    """Published figures that are shown beside the measured ones, e.g. ``{table: rdn.table4_T, method: rdn}``.

    ``where`` picks rows by their columns; ``method`` says which method of the study the rows belong to (a row's own
    ``method`` column otherwise), ``knobs`` which of our settings they stand for (their own columns otherwise).
    """

    table: str
    method: str | None = None
    where: dict[str, Any] = Field(default_factory=dict)
    knobs: dict[str, Any] | None = None


class Selector(Strict):
    """The trials of one method with these knob values (whatever their others), one a seed."""

    method: str
    knobs: dict[str, Any] = Field(default_factory=dict)


class Comparison(Strict):
    """How much better ``a`` is than ``b``; with ``along``, how much better ``a`` is at each of a knob's values than at
    its first."""

    name: str
    a: Selector
    b: Selector | None = None
    along: str | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Comparison:
        if (self.b is None) == (self.along is None):
            raise ValueError(f"comparison '{self.name}' needs either 'b' or 'along'; give one of them")
        return self


class Study(Strict):
    """A validated study: data, methods with their knobs, search, and how accuracy and runtime are taken."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    data: Data = Data()
    preset: str = "paper"
    settings: dict[str, Any] = Field(default_factory=dict)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    search: Search = Search()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    accuracy: AccuracySettings = AccuracySettings()
    runtime: RuntimeSettings = RuntimeSettings()
    cache: Cache = Cache()
    workers: Workers = Workers()
    published: tuple[PublishedTable, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Study:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat one; each seed is one training")
        return self

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as they are written to ``study.yaml``."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        return plain
