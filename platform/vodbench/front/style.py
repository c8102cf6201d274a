"""What the interactive figure, the picture and the report share: colours and words."""

from __future__ import annotations

from collections.abc import Sequence

from vodbench.front.points import Point

# Okabe & Ito's palette: told apart by readers with colour-vision deficiencies.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DOMINATED = "#b8b8b8"
FRONT_LINE = "#444444"
RUNTIME_AXIS = "mean runtime (ms a frame)"
PUBLISHED_RUNTIME_AXIS = "runtime as printed (ms a frame)"


def accuracy_axis(points: Sequence[Point]) -> str:
    """The axis names the protocol: tables of different protocols cannot be compared."""
    protocols = sorted({point.accuracy.protocol for point in points})
    return f"mAP ({', '.join(protocols)})"


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """One colour a method, in order of first appearance."""
    ordered = list(dict.fromkeys(methods))
    return {method: PALETTE[i % len(PALETTE)] for i, method in enumerate(ordered)}


def staircase(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """The front as a step line: (runtimes, mAPs). Between two points the slower budget still gets the faster point."""
    front = sorted((point for point in points if point.on_front), key=lambda p: p.runtime.mean_ms)
    xs: list[float] = []
    ys: list[float] = []
    for previous, point in zip([None, *front], front, strict=False):
        if previous is not None:
            xs.append(point.runtime.mean_ms)
            ys.append(previous.accuracy.map)
        xs.append(point.runtime.mean_ms)
        ys.append(point.accuracy.map)
    return xs, ys


def error_bar(low: float, middle: float, high: float) -> tuple[float, float]:
    """Lengths of an error bar (down, up). A percentile interval may miss its own estimate: never negative."""
    return max(middle - low, 0.0), max(high - middle, 0.0)
