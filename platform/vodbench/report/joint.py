"""One page about several studies: their joint front, and how sure the differences between their methods are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vodbench.errors import OneLineError
from vodbench.evaluation import Difference
from vodbench.front.joint import Group, JointPoint, joint_front
from vodbench.front.joint_figure import joint_figure
from vodbench.front.points import Point
from vodbench.report.figures import accuracy_figure, stage_figure
from vodbench.report.page import embedded, made_now, rendered
from vodbench.trials import StoredTrial, stored_trials
from vodbench.trials.judging import EVERY_FRAME, Resampled, judged


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The best configuration of each method of a group, and all differences between them."""

    best: tuple[JointPoint, ...]  # in order of the studies; the first is the baseline
    matrix: tuple[tuple[Difference | None, ...], ...]  # row less column, on every frame; None on the diagonal
    kinds: dict[str, tuple[Difference | None, ...]]  # kind of frames -> each less the baseline
    missing: str | None  # why there are no differences


def render_joint_report(folders: Sequence[str], *, anyway: bool = False, published: bool = False) -> str:
    """The report of several studies as one HTML document; arguments as of ``joint_front``.

    ``UserError`` when there is no complete trial, or not all compare and ``anyway`` was not said.
    """
    trials = stored_trials(folders)
    front = joint_front(trials, anyway=anyway, published=published)
    groups = []
    for number, group in enumerate(front.groups):
        compared = compare_methods(group, _method_order([t for t in trials if t.conditions == group.conditions]))
        groups.append({"number": number + 1, "group": group, "compared": compared, "figures": _figures(compared)})
    return rendered(
        "joint.html.j2",
        {
            "title": front.title,
            "made": made_now(),
            "studies": _studies(trials),
            "front": front,
            "figure": embedded(joint_figure(front), first=True),
            "groups": groups,
        },
    )


def compare_methods(group: Group, methods: Sequence[str]) -> Compared:
    """Paired differences between the most accurate configuration of each method, where data and detections are there.

    A report is also read where the data is not; ``missing`` then says why there are none.
    """
    best = best_of_methods(group, methods)
    try:
        by_kind = judged([point.configuration for point in best])
    except OneLineError as error:
        return Compared(best=best, matrix=(), kinds={}, missing=str(error))
    return Compared(
        best=best,
        matrix=tuple(
            tuple(_difference(by_kind[EVERY_FRAME], a, b) for b in range(len(best))) for a in range(len(best))
        ),
        kinds={
            kind: tuple(_difference(resampled, n, 0) for n in range(len(best))) for kind, resampled in by_kind.items()
        },
        missing=None,
    )


def best_of_methods(group: Group, methods: Sequence[str]) -> tuple[JointPoint, ...]:
    """The most accurate configuration of each method, in this order of methods."""
    best: dict[str, JointPoint] = {}
    for point in group.points:
        held = best.get(point.configuration.method)
        if held is None or point.configuration.map > held.configuration.map:
            best[point.configuration.method] = point
    return tuple(best[method] for method in methods if method in best)


def _difference(resampled: Resampled, a: int, b: int) -> Difference | None:
    return None if a == b else resampled.difference(a, b)


def _method_order(trials: Sequence[StoredTrial]) -> list[str]:
    """As the studies name them, one study after another."""
    return list(dict.fromkeys(entry.method for trial in trials for entry in trial.study.methods))


def _figures(compared: Compared) -> list[str]:
    """Accuracy by motion and runtime by stage of the first seed of each method's best."""
    points = []
    for point in compared.best:
        trial = point.configuration.timed[0]
        points.append(
            Point(record=trial.record, accuracy=trial.accuracy, runtime=trial.runtime, on_front=point.on_front)
        )
    figures = [accuracy_figure(points, lambda p: p.accuracy.motion, "Accuracy by motion"), stage_figure(points)]
    return [embedded(figure, first=False) for figure in figures]


def _studies(trials: Sequence[StoredTrial]) -> list[dict[str, Any]]:
    found: dict[str, list[StoredTrial]] = {}
    for trial in trials:
        found.setdefault(trial.folder, []).append(trial)
    return [
        {"name": own[0].study_name, "study": own[0].study, "trials": len(own), "folder": folder}
        for folder, own in found.items()
    ]
