"""The front of a study folder as files beside its trials."""

from __future__ import annotations

from collections.abc import Sequence

from vodbench.front.points import load_trials, measured_points, write_front_json
from vodbench.records import TrialRecord
from vodbench.storage import join, write_bytes, write_text
from vodbench.studies.loading import load_study
from vodbench.studies.published import published_points

FRONT_FILES = ("front.html", "front.png", "front.json")


def draw_front(out: str, records: Sequence[TrialRecord] | None = None, *, feasible_only: bool = False) -> list[str]:
    """Write front.html (interactive), front.png and front.json from the records on disk; returns their URLs.

    ``records``: those on disk, where they were read already, in the order of ``load_trials``. With ``feasible_only``,
    the front of the trials that keep to the study's constraints. ``UserError`` when the folder holds no trials.
    """
    # plotly and matplotlib take a second to import: not for a study folder that is refused.
    records = load_trials(out) if records is None else records
    study = load_study(join(out, "study.yaml"))
    points = measured_points(records, study.search.constraints, feasible_only=feasible_only)
    published = published_points(study)
    from vodbench.front.figure import front_figure
    from vodbench.front.picture import front_png

    interactive = front_figure(points, published, study.title).to_html(include_plotlyjs=True, full_html=True)
    write_text(join(out, "front.html"), interactive)
    write_bytes(join(out, "front.png"), front_png(points, published, study.title))
    write_front_json(out, points)
    return [join(out, name) for name in FRONT_FILES]
