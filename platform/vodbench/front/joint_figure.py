"""Several studies on one interactive plotly figure."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go

from vodbench.front.figure import bars, panels, published_trace
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
from vodbench.front.style import FRONT_LINE, PUBLISHED_RUNTIME_AXIS, RUNTIME_AXIS

_LINE = 150  # characters of a heading's line


def joint_figure(front: JointFront) -> go.Figure:
    """A colour and shape a method, a line a curve, the front as dotted steps; hollow markers are contended.

    Trials that do not compare have fronts of their own, and numbers in the legend.
    """
    figure = panels(bool(front.published))
    of_method = looks(front.methods)
    for number, group in enumerate(front.groups):
        for trace in _traces(group, of_method, group_suffix(front, number)):
            figure.add_trace(trace, row=1, col=1)
    for method in dict.fromkeys(p.method for p in front.published):
        printed = [p for p in front.published if p.method == method]
        figure.add_trace(published_trace(printed, of_method[method].colour, method), row=1, col=2)
    log = logarithmic(front)
    axis: dict[str, Any] = {"type": "log"} if log else {"rangemode": "tozero"}
    figure.update_xaxes(title=RUNTIME_AXIS + (", logarithmic" if log else ""), row=1, col=1, **axis)
    figure.update_yaxes(title=joint_axis(front), row=1, col=1)
    if front.published:
        figure.update_xaxes(title=PUBLISHED_RUNTIME_AXIS, row=1, col=2)
        figure.update_yaxes(title="published mAP, IoU 0.5", row=1, col=2)
    lines = [f"<sup>{line}</sup>" for text in _heading(front) for line in wrap(text, _LINE, break_on_hyphens=False)]
    figure.update_layout(
        title="<br>".join(lines),
        margin={"t": 60 + 18 * len(lines)},
        template="plotly_white",
        height=680,
        hoverlabel={"align": "left"},
    )
    return figure


def _heading(front: JointFront) -> list[str]:
    return [front.title, *filter(None, [front.warning]), *group_legend(front)]


def _faint(colour: str) -> str:
    """A colour ``#rrggbb`` for error bars, which would otherwise hide the points."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.3)"


def _traces(group: Group, of_method: dict[str, Look], suffix: str) -> list[go.Scatter]:
    xs, ys = stairs(group)
    line: dict[str, Any] = {"color": FRONT_LINE, "width": 1.5, "dash": "dot", "shape": "linear"}
    traces = [go.Scatter(x=xs, y=ys, mode="lines", line=line, name=f"front{suffix}", hoverinfo="skip")]
    for curve, (_, dash) in dashed(group.curves):
        traces.append(
            go.Scatter(
                x=[c.mean_ms for c in curve.points],
                y=[c.map for c in curve.points],
                mode="lines",
                line={"color": of_method[curve.method].colour, "width": 1.5, "dash": dash},
                name=curve.label + suffix,
                legendgroup=curve.method + suffix,
                hoverinfo="skip",
            )
        )
    traces += [_markers(points, of_method[method], method, suffix) for method, points in by_method(group).items()]
    return traces


def _markers(points: Sequence[JointPoint], look: Look, method: str, suffix: str) -> go.Scatter:
    configurations = [p.configuration for p in points]
    return go.Scatter(
        x=[c.mean_ms for c in configurations],
        y=[c.map for c in configurations],
        error_x=bars([(c.low_ms, c.mean_ms, c.high_ms) for c in configurations], _faint(look.colour)),
        error_y=bars([(c.low, c.map, c.high) for c in configurations], _faint(look.colour)),
        mode="markers",
        marker={
            "color": look.colour,
            "symbol": [look.symbol + ("-open" if c.contended else "") for c in configurations],
            "size": [12 if p.on_front else 8 for p in points],
            "line": {"color": [EDGE if p.on_front else look.colour for p in points], "width": 1.5},
        },
        name=method + suffix,
        legendgroup=method + suffix,
        text=[_hover(p) for p in points],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(point: JointPoint) -> str:
    c = point.configuration
    lines = [
        f"<b>{point.label}</b>" + (" (front)" if point.on_front else ""),
        f"mAP {c.map:.3f} [{c.low:.3f}, {c.high:.3f}], mean of seed(s) {', '.join(map(str, c.seeds))}",
        f"{c.mean_ms:.2f} ms [{c.low_ms:.2f}, {c.high_ms:.2f}], {c.p95_ms:.2f} p95",
        ", ".join(c.studies),
        ", ".join(trial.record.fingerprint for trial in c.trials),
    ]
    return "<br>".join(lines + (["<b>runtime contended</b>"] if c.contended else []))
