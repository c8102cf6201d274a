"""The questions people ask of stored detections: how good, how sure, on what, and better than what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vodbench.detections import DetectionSet
from vodbench.errors import UserError
from vodbench.evaluation.bootstrap import bootstrap_map, interval
from vodbench.evaluation.matching import Matching, match
from vodbench.evaluation.motion import motion_ap
from vodbench.evaluation.overlap import Doubles
from vodbench.evaluation.precision import average_precision, mean_ap, on_frames
from vodbench.evaluation.protocols import protocol as protocol_named
from vodbench.evaluation.truth import TruthSet
from vodbench.records import Accuracy
from vodbench.spec import Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """mAP of one method less that of another on the same frames, with its 95% paired bootstrap interval."""

    mean: float  # of all snippets as they are, not of the resamples
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """The interval does not hold 0."""
        return self.low > 0 or self.high < 0


def evaluate(
    truth: TruthSet, detections: DetectionSet, protocol: str = "ilsvrc", bootstrap: int = 1000, seed: int = 0
) -> Accuracy:
    """Accuracy with its tables.

    Args:
        protocol: "ilsvrc", "voc" or "coco"; see ``vodbench.evaluation.protocols``.
        bootstrap: resamples of the interval; with 0 it is the mAP itself.

    Raises:
        UserError: unknown protocol; detections of other data, frames or classes; no ground truth at all.
    """
    matching = match(_with_objects(truth), detections, protocol_named(protocol))
    return replace(summarise(matching, bootstrap, seed), stage_share=detections.stage_share())


def summarise(matching: Matching, bootstrap: int = 1000, seed: int = 0) -> Accuracy:
    """Everything that can be told from one matching."""
    truth = matching.truth
    ap = average_precision(matching)
    overall = mean_ap(ap)
    assert overall is not None, "a truth set without objects gets no matching"
    low, high = interval(bootstrap_map(matching, bootstrap, seed)) if bootstrap else (overall, overall)
    names = ["any", "none", *truth.deteriorations] if truth.deteriorations else []
    return Accuracy(
        protocol=matching.protocol.name,
        map=overall,
        low=low,
        high=high,
        map50=mean_ap(ap[:1]) if matching.protocol.name == "coco" else None,
        per_class={info.name: value for info, value in zip(truth.classes, class_values(ap), strict=True)},
        motion={name: mean_ap(of_range) for name, of_range in motion_ap(matching).items()},
        deteriorations={
            name: mean_ap(average_precision(matching, on_frames(matching, truth.frames_with(name)))) for name in names
        },
        num_snippets=len(truth.snippet_ids),
        num_frames=len(truth),
    )


def compare(
    truth: TruthSet,
    a: DetectionSet,
    b: DetectionSet,
    protocol: str = "ilsvrc",
    frames: Bools | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Difference:
    """mAP of ``a`` less mAP of ``b``, paired: every resample is the same for both.

    Args:
        frames: (F,) compare on these frames only, e.g. ``truth.frames_with("any")``.
    """
    settings = protocol_named(protocol)
    chosen = np.ones(len(truth), bool) if frames is None else frames
    if not (chosen[truth.frame_of_box] & ~truth.crowd).any():
        raise UserError("none of the chosen frames has an object; choose frames with ground truth")
    matchings = [match(truth, detections, settings) for detections in (a, b)]
    means = [mean_ap(average_precision(m, on_frames(m, chosen))) or 0.0 for m in matchings]
    samples = [bootstrap_map(m, bootstrap, seed, chosen) for m in matchings]
    mean = means[0] - means[1]
    low, high = interval(samples[0] - samples[1]) if bootstrap else (mean, mean)
    return Difference(mean=mean, low=low, high=high)


def class_values(ap: Doubles) -> list[float | None]:
    """(thresholds, C) AP as one value a class, None where it has no ground truth."""
    return [None if np.isnan(column).any() else float(column.mean()) for column in ap.T]


def _with_objects(truth: TruthSet) -> TruthSet:
    if not (~truth.crowd).any():
        raise UserError(f"the ground truth has {len(truth)} frames and not one object; nothing can be evaluated")
    return truth
