"""The front as an interactive plotly figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

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


def front_figure(points: Sequence[Point], published: Sequence[PublishedPoint] = (), title: str = "") -> go.Figure:
    """Measured trials with 95% error bars, the front as a staircase, dominated trials in grey.

    Published points stand beside, on axes of their own: their hardware and data are the paper's, so only the shape of
    the two curves can be compared. Those without a runtime are left to the table.
    """
    timed = [p for p in published if p.runtime_ms is not None and p.map is not None]
    colours = method_colours([p.record.method for p in points] + [p.method for p in timed])
    figure = panels(bool(timed))
    xs, ys = staircase(points)
    line: dict[str, Any] = {"color": FRONT_LINE, "width": 1.5, "dash": "dot"}
    figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, name="front", hoverinfo="skip"), row=1, col=1)
    dominated = [p for p in points if not p.on_front]
    if dominated:
        figure.add_trace(_trace(dominated, DOMINATED, "dominated", size=8), row=1, col=1)
    for method, colour in colours.items():
        chosen = [p for p in points if p.on_front and p.record.method == method]
        if chosen:
            figure.add_trace(_trace(chosen, colour, method, size=11), row=1, col=1)
    for method, colour in colours.items():
        printed = [p for p in timed if p.method == method]
        if printed:
            figure.add_trace(published_trace(printed, colour, method), row=1, col=2)
    figure.update_xaxes(title=RUNTIME_AXIS, rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title=accuracy_axis(points), row=1, col=1)
    if timed:
        figure.update_xaxes(title=PUBLISHED_RUNTIME_AXIS, row=1, col=2)
        figure.update_yaxes(title="published mAP, IoU 0.5", row=1, col=2)
    hover = {"align": "left", "bgcolor": "white"}  # a method's colour behind text can be too dark for it
    margin = {"t": 80 if title else 40}
    figure.update_layout(title=title, template="plotly_white", height=520, hoverlabel=hover, margin=margin)
    return figure


def panels(with_published: bool) -> go.Figure:
    if not with_published:
        return make_subplots(rows=1, cols=1)
    titles = ("measured here", "published (the papers' hardware and data)")
    return make_subplots(rows=1, cols=2, column_widths=[0.64, 0.36], subplot_titles=titles, horizontal_spacing=0.1)


def _trace(points: Sequence[Point], colour: str, name: str, *, size: int) -> go.Scatter:
    # A cross breaks a constraint; a hollow marker is a runtime that was taken on a busy device.
    symbols = [("circle" if p.feasible else "x") + ("-open" if p.runtime.contended else "") for p in points]
    return go.Scatter(
        x=[p.runtime.mean_ms for p in points],
        y=[p.accuracy.map for p in points],
        error_x=bars([(p.runtime.low_ms, p.runtime.mean_ms, p.runtime.high_ms) for p in points], colour),
        error_y=bars([(p.accuracy.low, p.accuracy.map, p.accuracy.high) for p in points], colour),
        mode="markers",
        marker={"color": colour, "size": size, "symbol": symbols},
        name=name,
        text=[_hover(p) for p in points],
        hovertemplate="%{text}<extra></extra>",
    )


def bars(intervals: Sequence[tuple[float, float, float]], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [error_bar(*interval)[1] for interval in intervals],
        "arrayminus": [error_bar(*interval)[0] for interval in intervals],
        "thickness": 1,
        "width": 2,
        "color": colour,
    }


def _hover(point: Point) -> str:
    a, r = point.accuracy, point.runtime
    lines = [
        f"<b>{point.label}</b> (seed {point.record.seed})",
        f"mAP {a.map:.3f} [{a.low:.3f}, {a.high:.3f}]",
        f"{r.mean_ms:.2f} ms mean, {r.median_ms:.2f} median, {r.p95_ms:.2f} p95, {r.fps:.1f} frames/s",
        f"latency {'the whole snippet' if r.latency_frames is None else f'{r.latency_frames} frames'}"
        + (f", {r.gflops:.3g} GFLOPs a frame" if r.gflops is not None else ""),
        f"trial {point.record.fingerprint}",
    ]
    marks = {"runtime contended": r.contended, "breaks a constraint": not point.feasible}
    return "<br>".join(lines + [f"<b>{mark}</b>" for mark, holds in marks.items() if holds])


def published_trace(printed: Sequence[PublishedPoint], colour: str, method: str) -> go.Scatter:
    return go.Scatter(
        x=[p.runtime_ms for p in printed],
        y=[p.map for p in printed],
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": "diamond"},
        name=f"{method} (published)",
        text=[f"<b>{p.label}</b><br>mAP {p.map:.3f}, {p.runtime_ms:.1f} ms<br>{p.source}" for p in printed],
        hovertemplate="%{text}<extra></extra>",
    )
