"""What the picture and the page of several studies share: a colour and a marker a method, a dash a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vodbench.front.curves import Curve
from vodbench.front.joint import Group, JointFront, JointPoint
from vodbench.front.style import PALETTE

# matplotlib's and plotly's names of the same shapes; diamonds are published points. Colours and shapes have lengths
# without a common factor, so that their pairs repeat late.
MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("<", "triangle-left"),
    ("p", "pentagon"),
    ("*", "star"),
)
DASHES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))
EDGE = "#111111"  # of points on the front
LOGARITHMIC = 20.0  # slowest / fastest from which the runtime axis is logarithmic


@dataclass(frozen=True)
class Look:
    """One method's colour and shape."""

    colour: str
    marker: str  # matplotlib
    symbol: str  # plotly


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """By order of appearance."""
    return {m: Look(PALETTE[i % len(PALETTE)], *MARKERS[i % len(MARKERS)]) for i, m in enumerate(methods)}


def dashed(curves: Sequence[Curve]) -> Iterator[tuple[Curve, tuple[str, str]]]:
    """Each curve with its dash: a method's curves differ."""
    seen: dict[str, int] = {}
    for curve in curves:
        number = seen[curve.method] = seen.get(curve.method, -1) + 1
        yield curve, DASHES[number % len(DASHES)]


def group_suffix(front: JointFront, number: int) -> str:
    """Marks the legend of each kind of trials where not all compare: `` (1)``."""
    return f" ({number + 1})" if front.warning else ""


def group_legend(front: JointFront) -> list[str]:
    """What the numbers stand for; nothing where all trials compare."""
    if not front.warning:
        return []
    return [f"({n + 1}) {group.conditions.words()}" for n, group in enumerate(front.groups)]


def by_method(group: Group) -> dict[str, list[JointPoint]]:
    found: dict[str, list[JointPoint]] = {}
    for point in group.points:
        found.setdefault(point.configuration.method, []).append(point)
    return found


def logarithmic(front: JointFront) -> bool:
    """Whether the runtimes span so much that a linear axis would hide the fast ones."""
    times = [point.configuration.mean_ms for group in front.groups for point in group.points]
    return min(times) > 0 and max(times) / min(times) >= LOGARITHMIC


def joint_axis(front: JointFront) -> str:
    """The axis names the protocols."""
    protocols = sorted({group.conditions.protocol for group in front.groups})
    return f"mAP ({', '.join(protocols)})"


def stairs(group: Group) -> tuple[list[float], list[float]]:
    """The group's front as steps: (runtimes, mAPs)."""
    xs: list[float] = []
    ys: list[float] = []
    for point in (p.configuration for p in group.points if p.on_front):
        if ys:
            xs.append(point.mean_ms)
            ys.append(ys[-1])
        xs.append(point.mean_ms)
        ys.append(point.map)
    return xs, ys
