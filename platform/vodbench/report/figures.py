"""The report's figures besides the front: accuracy by motion and deterioration, runtime by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from vodbench.front.hypervolume import Step
from vodbench.front.points import Point
from vodbench.front.style import FRONT_LINE, method_colours


def accuracy_figure(
    best: Sequence[Point], split_of: Callable[[Point], Mapping[str, float | None]], title: str
) -> go.Figure:
    """Grouped bars of mAP, a group a condition, a bar a method (its most accurate trial)."""
    colours = method_colours([p.record.method for p in best])
    figure = go.Figure()
    for point in best:
        values = {name: value for name, value in split_of(point).items() if value is not None}
        figure.add_trace(
            go.Bar(
                x=list(values),
                y=list(values.values()),
                name=point.label,
                marker_color=colours[point.record.method],
                hovertemplate="%{x}: mAP %{y:.3f}<extra>" + point.label + "</extra>",
            )
        )
    figure.update_layout(title=title, template="plotly_white", barmode="group", height=360, yaxis_title="mAP")
    return figure


def hypervolume_figure(steps: Sequence[Step], points: Sequence[Point]) -> go.Figure:
    """The hypervolume of the front after each trial."""
    labels = {p.record.fingerprint: p.label for p in points}
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(steps) + 1)),
            y=[step.hypervolume for step in steps],
            mode="lines+markers",
            line={"shape": "hv", "color": FRONT_LINE},
            text=[labels.get(step.trial, step.trial) for step in steps],
            hovertemplate="after trial %{x}, %{text}: %{y:.4f}<extra></extra>",
        )
    )
    layout = {"height": 320, "xaxis_title": "complete trials", "yaxis_title": "hypervolume"}
    figure.update_layout(title="The front so far", template="plotly_white", **layout)
    return figure


def stage_figure(best: Sequence[Point]) -> go.Figure:
    """Stacked bars: where a frame's time goes, by method."""
    stages = list(dict.fromkeys(stage for point in best for stage in point.runtime.stage_ms))
    figure = go.Figure()
    for stage in stages:
        figure.add_trace(
            go.Bar(
                y=[p.label for p in best],
                x=[p.runtime.stage_ms.get(stage, 0.0) for p in best],
                orientation="h",
                name=stage,
                hovertemplate=stage + ": %{x:.2f} ms<extra>%{y}</extra>",
            )
        )
    layout = {"barmode": "stack", "height": 260 + 50 * len(best), "xaxis_title": "mean ms a frame"}
    figure.update_layout(title="Where the time goes", template="plotly_white", **layout)
    figure.update_yaxes(automargin=True)
    return figure
