"""The front as a PNG, drawn with matplotlib: it needs no browser and no network."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

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

_TITLE_WIDTH = {1: 90, 2: 125}  # characters a line, by number of panels
_MARKER = 6  # half the width of a marker, px
# Where a caption may stand beside its point, best first: (x, y) offset in points, alignment.
_PLACES = (
    ((6, 5), "left", "bottom"),
    ((6, -5), "left", "top"),
    ((-6, 5), "right", "bottom"),
    ((-6, -5), "right", "top"),
    ((6, 14), "left", "bottom"),
    ((6, -14), "left", "top"),
)


def front_png(points: Sequence[Point], published: Sequence[PublishedPoint] = (), title: str = "") -> bytes:
    """The same content as ``front_figure``, as PNG bytes."""
    timed = [p for p in published if p.runtime_ms is not None and p.map is not None]
    colours = method_colours([p.record.method for p in points] + [p.method for p in timed])
    figure = Figure(figsize=(11, 5.6) if timed else (8, 5.6), dpi=130, layout="constrained")
    widths = {"width_ratios": [1.7, 1]} if timed else None
    axes = figure.subplots(1, 2 if timed else 1, squeeze=False, gridspec_kw=widths)[0]
    _measured(axes[0], points, colours)
    if timed:
        draw_published(axes[1], timed, colours)
    figure.suptitle(textwrap.fill(title, _TITLE_WIDTH[len(axes)]), fontsize=11)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    place_captions(figure, axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _measured(axes: Any, points: Sequence[Point], colours: dict[str, str]) -> None:
    _scatter(axes, [p for p in points if not p.on_front], DOMINATED, "dominated", size=5)
    axes.plot(*staircase(points), color=FRONT_LINE, linestyle=":", linewidth=1.3, label="front")
    for method, colour in colours.items():
        chosen = [p for p in points if p.on_front and p.record.method == method]
        _scatter(axes, chosen, colour, method, size=7)
        for place, caption in _captions(chosen, method).items():
            axes.annotate(caption, place, xytext=_PLACES[0][0], textcoords="offset points", fontsize=7)
    axes.set(xlabel=RUNTIME_AXIS, ylabel=accuracy_axis(points), title="measured here")
    slowest = max((p.runtime.mean_ms for p in points), default=1.0)
    axes.set_xlim(0, 1.2 * slowest)  # with room for the last point's caption
    axes.grid(alpha=0.25)


def _captions(points: Sequence[Point], method: str) -> dict[tuple[float, float], str]:
    """The knobs of each point by its place; of points at one place those of the first, and how many more there are."""
    knobs: dict[tuple[float, float], list[str]] = {}
    for point in points:
        place = (point.runtime.mean_ms, point.accuracy.map)
        knobs.setdefault(place, []).append(" ".join(point.label.split()[1:]) or method)
    return {place: f"{first} and {len(more)} more" if more else first for place, (first, *more) in knobs.items()}


def place_captions(figure: Figure, panels: Sequence[Any]) -> None:
    """Move captions that would cover one another or a point, or leave their panel, to another side of their point."""
    figure.draw_without_rendering()
    for axes in (panel for panel in panels if panel.texts):
        points = [caption.xy for caption in axes.texts]
        points += [place for line in axes.lines if line.get_marker() != "None" for place in line.get_xydata()]
        places = axes.transData.transform(points)
        taken = [Bbox.from_extents(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in places]
        for caption in axes.texts:
            for offset, horizontal, vertical in _PLACES:
                caption.set_position(offset)
                caption.set(ha=horizontal, va=vertical)
                box = caption.get_window_extent()
                inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
                if inside and not any(box.overlaps(other) for other in taken):
                    break
            taken.append(box)


def _scatter(axes: Any, points: Sequence[Point], colour: str, label: str, *, size: int) -> None:
    for contended, feasible in itertools.product((False, True), (True, False)):
        chosen = [p for p in points if p.runtime.contended is contended and p.feasible is feasible]
        if not chosen:
            continue
        remarks = ["contended"] * contended + ["breaks a constraint"] * (not feasible)
        xs, ys = [p.runtime.mean_ms for p in chosen], [p.accuracy.map for p in chosen]
        x_bars = [error_bar(p.runtime.low_ms, p.runtime.mean_ms, p.runtime.high_ms) for p in chosen]
        y_bars = [error_bar(p.accuracy.low, p.accuracy.map, p.accuracy.high) for p in chosen]
        face = "none" if contended else colour
        axes.errorbar(
            xs,
            ys,
            xerr=list(zip(*x_bars, strict=True)),
            yerr=list(zip(*y_bars, strict=True)),
            fmt="o" if feasible else "X",
            color=colour,
            markerfacecolor=face,
            markersize=size,
            elinewidth=0.7,
            label=f"{label} ({', '.join(remarks)})" if remarks else label,
        )


def draw_published(axes: Any, timed: Sequence[PublishedPoint], colours: dict[str, str]) -> None:
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
