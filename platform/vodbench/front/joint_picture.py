"""Several studies on one PNG, drawn with matplotlib."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from vodbench.front.joint import Group, JointFront, JointPoint
from vodbench.front.joint_style import (
    EDGE,
    Look,
    by_method,
    dashed,
    group_legend,
    group_suffix,
    joint_axis,
    logarithmic,
    looks,
    stairs,
)
from vodbench.front.picture import draw_published, place_captions
from vodbench.front.style import FRONT_LINE, RUNTIME_AXIS, error_bar

_WIDTH, _PUBLISHED_WIDTH, _HEIGHT = 10.5, 4.5, 6.2  # inches
_ROW = 0.19  # inches a row of the legend
_COLUMNS = 3


def joint_png(front: JointFront) -> bytes:
    """The same content as ``joint_figure``, as PNG bytes."""
    of_method = looks(front.methods)
    entries = sum(len(group.curves) + len(by_method(group)) + 1 for group in front.groups)
    width = _WIDTH + (_PUBLISHED_WIDTH if front.published else 0)
    notes = [*([front.warning] if front.warning else []), *group_legend(front)]
    heading = "\n".join(textwrap.fill(line, int(13 * width), break_on_hyphens=False) for line in [front.title, *notes])
    height = _HEIGHT + _ROW * (entries / _COLUMNS + heading.count("\n"))
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    widths = {"width_ratios": [_WIDTH, _PUBLISHED_WIDTH]} if front.published else None
    axes = figure.subplots(1, 2 if front.published else 1, squeeze=False, gridspec_kw=widths)[0]
    for number, group in enumerate(front.groups):
        _draw(axes[0], group, of_method, group_suffix(front, number))
    _finish(axes[0], front)
    if front.published:
        draw_published(axes[1], front.published, {method: look.colour for method, look in of_method.items()})
    figure.suptitle(heading, fontsize=9, color="#a00000" if front.warning else None)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=_COLUMNS, fontsize=7.5, frameon=False)
    place_captions(figure, axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Any, group: Group, of_method: dict[str, Look], suffix: str) -> None:
    axes.plot(*stairs(group), color=FRONT_LINE, linestyle=":", linewidth=1.3, label=f"front{suffix}", zorder=1)
    for method, points in by_method(group).items():
        look = of_method[method]
        _markers(axes, points, look)
        axes.plot([], [], look.marker, color=look.colour, markersize=6, label=method + suffix)
    for curve, (dash, _) in dashed(group.curves):
        xs, ys = [c.mean_ms for c in curve.points], [c.map for c in curve.points]
        colour = of_method[curve.method].colour
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.1, label=curve.label + suffix, zorder=2)
    for point in group.points:
        words = (" ".join(point.label.split()[1:]) or point.label if point.on_front else "") + suffix
        if words:
            place = (point.configuration.mean_ms, point.configuration.map)
            axes.annotate(words.strip(), place, xytext=(6, 5), textcoords="offset points", fontsize=7)


def _markers(axes: Any, points: Sequence[JointPoint], look: Look) -> None:
    """One call a point: its face says contended or not, its edge and size whether it is on the front."""
    for point in points:
        c = point.configuration
        axes.errorbar(
            [c.mean_ms],
            [c.map],
            xerr=[[v] for v in error_bar(c.low_ms, c.mean_ms, c.high_ms)],
            yerr=[[v] for v in error_bar(c.low, c.map, c.high)],
            fmt=look.marker,
            color=look.colour,
            markerfacecolor="white" if c.contended else look.colour,
            markeredgecolor=EDGE if point.on_front else look.colour,
            markersize=8 if point.on_front else 5,
            ecolor=(look.colour, 0.25),
            elinewidth=0.7,
            zorder=3,
        )


def _finish(axes: Any, front: JointFront) -> None:
    contended = any(p.configuration.contended for group in front.groups for p in group.points)
    note = "black edge: on the front" + ("; white: runtime taken on a busy device" if contended else "")
    log = logarithmic(front)
    axes.set(xlabel=RUNTIME_AXIS + (", logarithmic" if log else ""), ylabel=joint_axis(front))
    axes.set_title(note, fontsize=8)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.12 * max(p.configuration.mean_ms for group in front.groups for p in group.points))
    axes.grid(alpha=0.25)
