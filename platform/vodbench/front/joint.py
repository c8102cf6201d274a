"""One front over the trials of several studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vodbench.errors import UserError
from vodbench.front.curves import Curve, curves
from vodbench.front.pareto import non_dominated
from vodbench.studies.published import PublishedPoint, published_points
from vodbench.trials import Conditions, Configuration, StoredTrial, configurations, grouped, labels
from vodbench.trials.conditions import incomparable


@dataclass(frozen=True, kw_only=True)
class JointPoint:
    """A configuration of the front's plot."""

    configuration: Configuration
    label: str
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trials under the same conditions: only among them one may beat another."""

    conditions: Conditions
    points: tuple[JointPoint, ...]  # by rising runtime
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class JointFront:
    """What the picture, the page and the table show."""

    groups: tuple[Group, ...]
    published: tuple[PublishedPoint, ...]
    title: str
    warning: str | None  # why not all of it compares

    @property
    def methods(self) -> list[str]:
        """By first appearance, which gives each its colour."""
        measured = [point.configuration.method for group in self.groups for point in group.points]
        return list(dict.fromkeys(measured + [point.method for point in self.published]))


def joint_front(trials: Sequence[StoredTrial], *, anyway: bool = False, published: bool = False) -> JointFront:
    """The front of all trials together.

    Args:
        anyway: where trials were made under different conditions, one front for each of these instead of an error.
        published: with the studies' published points.

    Raises:
        UserError: there is no complete trial; or not all compare, which names the studies and what they differ in.
    """
    if not trials:
        raise UserError("these studies hold no complete trial; run 'vodbench sweep' again, or give others")
    groups = grouped(trials)
    warning = incomparable(groups)
    if warning and not anyway:
        raise UserError(f"{warning}; give studies that do, or --anyway to draw each kind with a front of its own")
    names = list(dict.fromkeys(trial.study_name for trial in trials))
    studies = {trial.study.name: trial.study for trial in trials}
    points = {p.label + p.source: p for study in studies.values() for p in published_points(study)} if published else {}
    return JointFront(
        groups=tuple(_group(conditions, of_group) for conditions, of_group in groups.items()),
        published=tuple(p for p in points.values() if p.map is not None and p.runtime_ms is not None),
        title=", ".join(names),
        warning=warning,
    )


def joint_json(front: JointFront) -> dict[str, Any]:
    """The same as plain values, for scripts."""
    return {
        "comparable": front.warning is None,
        "warning": front.warning,
        "groups": [
            {
                "conditions": dataclasses.asdict(group.conditions),
                "front": [_plain(point) for point in group.points if point.on_front],
                "dominated": [_plain(point) for point in group.points if not point.on_front],
            }
            for group in front.groups
        ],
    }


def _group(conditions: Conditions, trials: Sequence[StoredTrial]) -> Group:
    found = configurations(trials)
    on_front = non_dominated(np.array([c.map for c in found]), np.array([c.mean_ms for c in found]))
    points = tuple(
        JointPoint(configuration=c, label=label, on_front=bool(mark))
        for c, label, mark in zip(found, labels(found), on_front, strict=True)
    )
    return Group(conditions=conditions, points=points, curves=tuple(curves(found)))


def _plain(point: JointPoint) -> dict[str, Any]:
    c = point.configuration
    return {
        **c.figures(),
        "label": point.label,
        "studies": list(c.studies),
        "map": c.map,
        "map_low": c.low,
        "map_high": c.high,
    }
