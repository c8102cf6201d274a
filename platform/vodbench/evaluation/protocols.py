"""The three numbers that go by the name "VID mAP".

======== ============================================== ====== ========================================= ==========
name     IoU threshold                                  widths AP                                        detections
======== ============================================== ====== ========================================= ==========
ilsvrc   per ground truth min(0.5, wh/((w+10)(h+10)))   +1     area under the monotone precision envelope as given
voc      0.5                                            +1     as above                                  as given
coco     0.5, 0.55, ..., 0.95 (mean); AP50 beside it    no +1  101 recall points                         100
======== ============================================== ====== ========================================= ==========

``ilsvrc`` is the official devkit's (DFF, FGFA, SELSA and their lineage), ``voc`` mega.pytorch's strict 0.5, ``coco``
pycocotools' (mmtracking, TransVOD, YOLOV), whose 100 detections are counted a frame *and class*. The other two score
what they are given, as their references do: keep up to 300 detections a frame with a score above 0.001.

**Ties.** Detections of equal score stand in one order everywhere: by frame (in the order of the ground truth), then
as given within the frame. pycocotools does the same; the other references sort with an unstable algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vodbench.errors import unknown
from vodbench.evaluation.overlap import Boxes, Doubles

_PIXEL_TOLERANCE = 10
_COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How detections are matched and summed up."""

    name: str
    extra: int  # added to widths and heights
    thresholds: tuple[float, ...]  # IoU, ascending; AP is the mean over them
    small_boxes_are_easier: bool = False  # the devkit's lower threshold for small ground truth
    recall_points: int | None = None  # None: the area under the envelope
    max_detections: int | None = None  # a frame and class
    last_of_equals: bool = False  # which of two ground truths with the same IoU is taken: pycocotools takes the last

    def required(self, threshold: float, boxes: Boxes) -> Doubles:
        """(M,) IoU with which each ground truth counts as found."""
        if not self.small_boxes_are_easier:
            # pycocotools' guard: a threshold of 1 must be reachable.
            return np.full(len(boxes), min(threshold, 1 - 1e-10))
        sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2] + self.extra
        relaxed: Doubles = np.prod(sides, axis=1) / np.prod(sides + _PIXEL_TOLERANCE, axis=1)
        return np.asarray(np.minimum(threshold, relaxed), np.float64)


PROTOCOLS: dict[str, Protocol] = {
    "ilsvrc": Protocol(name="ilsvrc", extra=1, thresholds=(0.5,), small_boxes_are_easier=True),
    "voc": Protocol(name="voc", extra=1, thresholds=(0.5,)),
    "coco": Protocol(
        name="coco",
        extra=0,
        thresholds=_COCO_THRESHOLDS,
        recall_points=101,
        max_detections=100,
        last_of_equals=True,
    ),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; ``UserError`` with the nearest name when there is none."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
