"""Oracle scheduling (Zhu et al., THP, CVPR 2018, Sec. 4): key frames chosen with the annotations at hand.

A bound on what a schedule could gain, not a method: every frame is detected both as a key frame and as one between key
frames, and the better answer, by the mAP of that frame alone, decides what it is and what later frames start from.
What it would cost, if the schedule were known, is what streaming that schedule costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench.detections import DetectionBuilder
from vodbench.evaluation import evaluate
from vodbench.evaluation.truth import from_frames
from vodbench.spec import ClassInfo, Clock, Detections, Frame, Image, Stream, Truth
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import Batch
from vodbench_methods.thp.steps import KeyFrame, Steps

if TYPE_CHECKING:
    from vodbench_methods.thp.config import THPConfig
    from vodbench_methods.thp.model import THP


class OracleStream:
    """A ``GuidedStream``; of equal answers, the cheaper is taken: no key frame.

    ``config``'s other rules for key frames (``key_frame_interval``, ``gamma``) are not used, nor is linking.
    """

    def __init__(self, method: THP, config: THPConfig, clock: Clock | None = None, protocol: str = "ilsvrc") -> None:
        self._steps, self._protocol = Steps(method, config, clock or NullClock()), protocol
        self._key: KeyFrame | None = None
        self.keys: list[bool] = []  # of the frames so far: which are key frames

    @torch.inference_mode()
    def push_annotated(self, image: Image, truth: Truth) -> list[Detections]:
        steps = self._steps
        batch = steps.prepared(image)
        if self._key is None or image.shape != self._key.shape:
            is_key, self._key = True, steps.first(batch, image)
            found = _detected(steps, self._key.gathered, batch)
        else:
            is_key, found, self._key = _better(steps, batch, self._key, truth, self._protocol)
        self.keys.append(is_key)
        return [found]

    def close(self) -> list[Detections]:
        return []

    def replayed(self, clock: Clock | None = None) -> Stream:
        """The schedule found, as ``THP.scheduled_stream`` does it."""
        return self._steps.method.scheduled_stream(tuple(self.keys), self._steps.config, clock)


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
