"""The tables of ``vodbench plan``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.plan.against import Part
from vodbench.plan.data import Video
from vodbench.plan.forecast import Forecast

_WIDTH = 120  # a narrower terminal breaks lines, but loses no figure


def print_plans(found: Sequence[Forecast], videos: Sequence[Video], price: float | None) -> None:
    """A row a study and number of GPUs, then what limits each."""
    console = Console()
    Console(width=max(console.width, _WIDTH)).print(_table(found, price))
    for one in found:
        console.print(_limit(one), highlight=False, soft_wrap=True)
    for line in dict.fromkeys(note for one in found for note in _notes(one)):
        console.print(line, highlight=False, soft_wrap=True)
    for video in dict.fromkeys(videos):
        console.print(
            escape(f"data: {video.source}, {video.judged_frames:,} frames of {video.judged_snippets} snippets judged"),
            highlight=False,
            soft_wrap=True,
        )


def _table(found: Sequence[Forecast], price: float | None) -> Table:
    unit = "GPU h" if any(one.gpus for one in found) else "worker h"
    table = Table(box=None, pad_edge=False)
    columns = [
        "GPUs",
        "used",
        "trials",
        "at once",
        "wall",
        "from - to",
        unit,
        "useful",
        "waiting",
        "lost",
        "read",
        "store",
    ]
    table.add_column("study", no_wrap=True)
    for name in [*columns, *([] if price is None else ["cost"])]:
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(
            one.study,
            "-" if one.gpus is None else str(one.gpus),
            str(one.slots),
            str(one.trials),
            str(one.at_once),
            duration(one.wall_s),
            "" if one.low_s == one.high_s else f"{duration(one.low_s)} - {duration(one.high_s)}",
            f"{one.hours:,.4g}",
            *(
                f"{hours / max(one.hours, 1e-12):.0%}"
                for hours in (one.useful_hours, one.waiting_hours, one.lost_hours)
            ),
            "?" if one.read_bytes is None else size(one.read_bytes),
            size(one.store_bytes),
            *([] if price is None else [f"{one.hours * price:,.0f}"]),
        )
    return table


def _limit(one: Forecast) -> str:
    """What limits it, and by how much the next bound is lower."""
    first, second = one.limits[0], one.limits[1]
    name = one.study if one.gpus is None else f"{one.study}, {one.gpus} GPUs"
    return escape(
        f"{name}: limited by {first.name} ({first.why}): {duration(first.seconds)} of {duration(one.wall_s)}; "
        f"next {second.name}, {duration(second.seconds)}"
    )


def _notes(one: Forecast) -> list[str]:
    if one.feature_bytes is None:
        return [escape(f"{one.study}: the size of encoded frames was not measured; all are taken to fit the cache")]
    if one.feature_bytes > one.cache_bytes > 0:
        return [
            escape(
                f"{one.study}: the feature cache keeps {size(one.cache_bytes)} of {size(one.feature_bytes)}: "
                f"--set cache.budget_gb={one.feature_bytes / 1e9:.0f} would keep all"
            )
        ]
    return []


def print_parts(parts: Sequence[Part]) -> None:
    """Part by part: expected, taken, and how far off."""
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("expected", "taken", "off by"):
        table.add_column(name, justify="right")
    for part in parts:
        table.add_row(part.name, f"{part.expected_s:.1f} s", f"{part.taken_s:.1f} s", f"{part.share:+.0%}")
    Console().print(table)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``7.3 h``, ``4.1 d``."""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86_400:.3g} d"


def size(count: float) -> str:
    """Bytes in decimal units, as stores bill them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
