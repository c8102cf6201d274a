"""The front as a PNG, drawn with matplotlib: it needs no browser and no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from vodbench.front.points import Point
from vodbench.front.style import (
    DOMINATED,
    FRONT_LINE,
    PUBLISHED_RUNTIME_AXIS,
    RUNTIME_AXIS,
    accuracy_axis,
    error_bar,
    method_colours,
    staircase,
)
from vodbench.studies.published import PublishedPoint


def front_png(points: Sequence[Point], published: Sequence[PublishedPoint] = (), title: str = "") -> bytes:
    """The same content as ``front_figure``, as PNG bytes."""
    timed = [p for p in published if p.runtime_ms is not None]
    colours = method_colours([p.record.method for p in points] + [p.method for p in timed])
    figure = Figure(figsize=(11, 5) if timed else (8, 5), dpi=130, layout="constrained")
    widths = {"width_ratios": [1.7, 1]} if timed else None
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False, gridspec_kw=widths)[0]
    _measured(axes[0], points, colours)
    if timed:
        _published(axes[1], timed, colours)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _measured(axes: Any, points: Sequence[Point], colours: dict[str, str]) -> None:
    _scatter(axes, [p for p in points if not p.on_front], DOMINATED, "dominated", size=5)
    axes.plot(*staircase(points), color=FRONT_LINE, linestyle=":", linewidth=1.3, label="front")
    for method, colour in colours.items():
        chosen = [p for p in points if p.on_front and p.record.method == method]
        _scatter(axes, chosen, colour, method, size=7)
        for point in chosen:
            knobs = " ".join(point.label.split()[1:]) or method
            place = (point.runtime.median_ms, point.accuracy.map)
            axes.annotate(knobs, place, xytext=(5, 5), textcoords="offset points", fontsize=7)
    axes.set(xlabel=RUNTIME_AXIS, ylabel=accuracy_axis(points), title="measured here")
    axes.margins(x=0.15)  # room for the last point's caption
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")


def _scatter(axes: Any, points: Sequence[Point], colour: str, label: str, *, size: int) -> None:
    for contended in (False, True):
        chosen = [p for p in points if p.runtime.contended is contended]
        if not chosen:
            continue
        xs, ys = [p.runtime.median_ms for p in chosen], [p.accuracy.map for p in chosen]
        x_bars = [error_bar(p.runtime.low_ms, p.runtime.median_ms, p.runtime.high_ms) for p in chosen]
        y_bars = [error_bar(p.accuracy.low, p.accuracy.map, p.accuracy.high) for p in chosen]
        face = "none" if contended else colour
        axes.errorbar(
            xs,
            ys,
            xerr=list(zip(*x_bars, strict=True)),
            yerr=list(zip(*y_bars, strict=True)),
            fmt="o",
            color=colour,
            markerfacecolor=face,
            markersize=size,
            elinewidth=0.7,
            label=f"{label} (contended)" if contended else label,
        )


def _published(axes: Any, timed: Sequence[PublishedPoint], colours: dict[str, str]) -> None:
    for method in dict.fromkeys(p.method for p in timed):
        chosen = [p for p in timed if p.method == method]
        axes.scatter([p.runtime_ms for p in chosen], [p.map for p in chosen], marker="D", s=28,
                     color=colours[method], label=f"{method} (published)")  # fmt: skip
        for p in chosen:
            settings = " ".join(f"{name}={value}" for name, value in p.settings.items())
            axes.annotate(settings, (p.runtime_ms, p.map), xytext=(4, 4), textcoords="offset points", fontsize=6)
    axes.set(xlabel=PUBLISHED_RUNTIME_AXIS, ylabel="published mAP, IoU 0.5", title="published (paper's hardware, data)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
