"""Studies: files that say what is swept on which data, and the papers' figures they are held against."""

from vodbench.studies.constraints import Constraint, violated
from vodbench.studies.loading import (
    list_studies,
    load_study,
    matching_studies,
    parse_mapping,
    parse_study,
    shipped_studies,
    study_scales,
)
from vodbench.studies.model import MethodEntry, Range, Study
from vodbench.studies.published import PublishedPoint, published_points
from vodbench.studies.space import MethodSpace, Point, grid_points, method_spaces
from vodbench.studies.values import KnobValues

__all__ = [
    "Constraint",
    "KnobValues",
    "MethodEntry",
    "MethodSpace",
    "Point",
    "PublishedPoint",
    "Range",
    "Study",
    "grid_points",
    "list_studies",
    "load_study",
    "matching_studies",
    "method_spaces",
    "parse_mapping",
    "parse_study",
    "published_points",
    "shipped_studies",
    "study_scales",
    "violated",
]
