"""The table of several studies as Markdown: a row a study, figures for each number of GPUs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from vodbench.cli.plan_tables import duration, size
from vodbench.plan.forecast import Forecast

_BETWEEN = " / "


def markdown(found: Sequence[Forecast], price: float | None) -> str:
    """``found``: the plans of a study one after the other. A figure that is the same for all numbers stands once."""
    counts = _BETWEEN.join(dict.fromkeys("here" if one.gpus is None else str(one.gpus) for one in found))
    unit = "GPU" if any(one.gpus for one in found) else "worker"
    names = ["study", "trainings", "settings", f"{unit}s used of {counts}", "wall", f"{unit} hours", "read", "store"]
    header = [*names, *([] if price is None else ["cost"]), "limited by"]
    lines = [header, ["---"] * len(header)]
    lines += [list(_row(list(plans), price)) for _, plans in groupby(found, key=lambda one: one.study)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(plans: Sequence[Forecast], price: float | None) -> Iterator[str]:
    first = plans[0]
    yield from (first.study, str(first.trainings), str(first.trials))
    yield _side_by_side(str(one.slots) for one in plans)
    yield _side_by_side(duration(one.wall_s) for one in plans)
    yield _side_by_side(f"{one.hours:,.0f}" for one in plans)
    yield _side_by_side("?" if one.read_bytes is None else size(one.read_bytes) for one in plans)
    yield _side_by_side(size(one.store_bytes) for one in plans)
    if price is not None:
        yield _side_by_side(f"{one.hours * price:,.0f}" for one in plans)
    yield _side_by_side(one.limits[0].name for one in plans)


def _side_by_side(figures: Iterable[str]) -> str:
    listed = list(figures)
    return listed[0] if len(set(listed)) == 1 else _BETWEEN.join(listed)
