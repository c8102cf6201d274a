"""Oracle scheduling (Zhu et al., THP, CVPR 2018, Sec. 4): key frames chosen with the annotations at hand.

A bound on what a schedule could gain, not a method: every frame is detected both as a key frame and as one between key
frames, and the better answer, by the mAP of that frame alone, decides what it is and what later frames start from.
The schedule found can be streamed (``THP.scheduled_stream``) to see what it would cost if it were known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench.detections import DetectionBuilder
from vodbench.evaluation import evaluate
from vodbench.evaluation.truth import from_frames
from vodbench.spec import ClassInfo, Detections, Frame, Image, Truth
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch
from vodbench_methods.thp.steps import KeyFrame, Steps

if TYPE_CHECKING:
    from vodbench_methods.thp.config import THPConfig
    from vodbench_methods.thp.model import THP


@dataclass(frozen=True, slots=True)
class OracleSchedule:
    """Of one snippet: which of its frames are key frames, and what is found so."""

    keys: tuple[bool, ...]
    detections: tuple[Detections, ...]


@torch.inference_mode()
def oracle_schedule(
    method: THP, images: Iterable[Image], truths: Iterable[Truth], config: THPConfig, protocol: str = "ilsvrc"
) -> OracleSchedule:
    """The schedule of the frames of one snippet; of equal answers, the cheaper is taken: no key frame.

    ``config``'s own rule for key frames (``keys``, ``key_frame_interval``, ``gamma``) is not used, nor is linking.
    """
    steps, key = Steps(method, config, NullClock()), None
    keys, detections = [], []
    for image, truth in zip(images, truths, strict=True):
        batch = steps.prepared(image)
        if key is None or image.shape != key.shape:
            key = steps.first(batch, image)
            is_key, found = True, _detected(steps, key.gathered, batch)
        else:
            is_key, found, key = _better(steps, batch, key, truth, protocol)
        keys.append(is_key)
        detections.append(found)
    return OracleSchedule(tuple(keys), tuple(detections))


def _better(
    steps: Steps, batch: Batch, key: KeyFrame, truth: Truth, protocol: str
) -> tuple[bool, Detections, KeyFrame]:
    """Whether the frame is a key frame, what is found in it, and the key frame of the frames after it."""
    output = steps.flow(batch, key)
    candidate = steps.next(batch, key, output)
    as_key = _detected(steps, candidate.gathered, batch)
    between = _detected(steps, steps.between(batch, key, output), batch)
    classes = steps.method.detector.num_classes
    if frame_map(as_key, truth, classes, protocol) > frame_map(between, truth, classes, protocol):
        return True, as_key, candidate
    return False, between, key


def frame_map(found: Detections, truth: Truth, num_classes: int, protocol: str = "ilsvrc") -> float:
    """mAP of one frame by itself, over the classes that are in it; 0 where there are none."""
    if not len(truth.labels):
        return 0.0
    classes = tuple(ClassInfo(str(label), str(label)) for label in range(1, num_classes + 1))
    builder = DetectionBuilder()
    builder.add("frame", 0, found)
    truths = from_frames(classes, ["frame"], [[Frame("frame", 0, b"", truth)]], "")
    return evaluate(truths, builder.build(), protocol, bootstrap=0).map


def _detected(steps: Steps, feature_map: Tensor, batch: Batch) -> Detections:
    frame = steps.method.detector.frame_from(feature_map, batch, steps.config, steps.clock)
    return steps.method.detector.detections(frame, frame.features, steps.config)
