"""Renders the page from what lies in a study folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jinja2
import yaml

from vodbench.data_source import DataSource
from vodbench.detections import DetectionSet, read_detections
from vodbench.errors import OneLineError, UserError
from vodbench.evaluation import TruthSet, compare, truth_set
from vodbench.front.figure import front_figure
from vodbench.front.hypervolume import history
from vodbench.front.points import Point, load_trials, measured_points
from vodbench.records import TrialRecord
from vodbench.redaction import redact_line
from vodbench.report.figures import accuracy_figure, hypervolume_figure, stage_figure
from vodbench.report.frames import compare_frames
from vodbench.spec import Dataset
from vodbench.storage import join
from vodbench.studies.loading import load_study
from vodbench.studies.model import Study
from vodbench.studies.published import published_points

# Published figures that match none of the trials are listed too, up to here.
_MAX_PUBLISHED = 40


def render_report(out: str) -> str:
    """The report of a study folder as one HTML document. ``UserError`` when the folder holds no complete trial."""
    study = load_study(join(out, "study.yaml"))
    records = load_trials(out)
    points = measured_points(records, study.search.constraints)
    if not points:
        raise UserError(f"'{out}' holds no complete trial, so there is nothing to report; run the sweep again")
    best = best_of_each_method(points, [entry.method for entry in study.methods])
    published = published_points(study)
    figures = [
        front_figure(points, published),
        accuracy_figure(best, lambda p: p.accuracy.motion, "Accuracy by motion"),
        accuracy_figure(best, lambda p: p.accuracy.deteriorations, "Accuracy by deterioration"),
        stage_figure(best),
        hypervolume_figure(history(out, records), points),
    ]
    values: dict[str, Any] = {
        "study": study,
        "study_yaml": yaml.safe_dump(study.to_mapping(), sort_keys=False),
        "made": made_now(),
        "records": records,
        "failed": [r for r in records if r.status == "failed"],
        "stopped": [r for r in records if r.status == "stopped"],
        "points": points,
        "best": best,
        "classes": list(best[0].accuracy.per_class),
        "published": published[:_MAX_PUBLISHED],
        "figures": [embedded(figure, first=n == 0) for n, figure in enumerate(figures)],
        "has_deteriorations": any(p.accuracy.deteriorations for p in best),
        **_against_baseline(out, study, best),
    }
    return rendered("report.html.j2", values)


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """A page from a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vodbench.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(values)


def made_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def best_of_each_method(points: Sequence[Point], methods: Sequence[str]) -> list[Point]:
    """The most accurate trial of each of these methods, in their order: the first is the baseline of comparisons."""
    best: dict[str, Point] = {}
    for point in points:
        held = best.get(point.record.method)
        if held is None or point.accuracy.map > held.accuracy.map:
            best[point.record.method] = point
    return [best[method] for method in dict.fromkeys(methods) if method in best]


def embedded(figure: Any, *, first: bool) -> str:
    """A figure as HTML; the first carries plotly's script, so the page needs no network."""
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config={"displaylogo": False}))


def _against_baseline(out: str, study: Study, best: Sequence[Point]) -> dict[str, Any]:
    """What needs the data and the stored detections: paired differences, and frames side by side.

    A report is also read where the data is not; the page then says which sections are missing, and why.
    """
    try:
        dataset = _open(study)
        truth = truth_set(dataset, study.data.val)
        sets = {p.record.fingerprint: _detections(out, p.record) for p in best}
    except OneLineError as error:
        return {
            "differences": [],
            "frames": [],
            "missing": redact_line(str(error)),
            "baseline": best[0],
            "leader": best[-1],
        }
    baseline, leader = best[0], max(best, key=lambda p: p.accuracy.map)
    frames = []
    if leader is not baseline:
        first, second = sets[baseline.record.fingerprint], sets[leader.record.fingerprint]
        frames = compare_frames(dataset, study.data.val, first, second)
    return {
        "differences": [_difference(truth, sets, baseline, p, study) for p in best if p is not baseline],
        "frames": frames,
        "missing": None,
        "baseline": baseline,
        "leader": leader,
    }


def _open(study: Study) -> Dataset:
    if study.data.root is None:
        raise UserError("the study names no data root")
    return DataSource(root=study.data.root, kind=study.data.dataset, options=study.data.options).open()


def _detections(out: str, record: TrialRecord) -> DetectionSet:
    if record.detections is None:
        raise UserError(f"trial {record.fingerprint} has no stored detections")
    return read_detections(join(out, record.detections))


def _difference(
    truth: TruthSet, sets: dict[str, DetectionSet], baseline: Point, point: Point, study: Study
) -> dict[str, Any]:
    """Paired differences to the baseline, on all frames and on the deteriorated ones."""
    ours, theirs = sets[point.record.fingerprint], sets[baseline.record.fingerprint]
    judge = partial(compare, truth, ours, theirs, study.accuracy.protocol, bootstrap=max(study.accuracy.bootstrap, 200))
    deteriorated = truth.frames_with("any")
    return {
        "label": point.label,
        "all": judge(),
        "deteriorated": judge(frames=deteriorated) if deteriorated[truth.frame_of_box].any() else None,
    }
