"""Semi-DFF (Han et al., Semi-Supervised DFF, ACM MM 2018).

Stage 1 trains a single-frame detector with labels. Stage 2 sees video alone: a teacher, the detector as stage 1 left
it, looks at frame i itself; the student looks at what its key frame k lends, and learns

    regression (2a)   to have the teacher's features:  |W(F_k, M) * S - F_i|^2 / (C H W)
    semantics (2b)    to give the teacher's answers:   RPN and head, on the teacher's proposals (``losses``)

The features that are propagated stay the teacher's (unless ``trained`` says otherwise), and batch norm keeps its
statistics. The teacher is no part of what is saved: the weights that stage 2 starts from hold it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from vodbench.spec import Clip, Stage
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.rpn import RpnOutput
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.flow import FlowOutput
from vodbench_methods.propagation.model import FlowDetector
from vodbench_methods.semidff import losses
from vodbench_methods.semidff.config import SemiDFFConfig
from vodbench_methods.semidff.generator import FeatureGenerator, PairFeatures, describe_pair

REGRESSION, SEMANTICS, JOINT = "regression", "semantics", "joint"  # the stages without labels


@dataclass(frozen=True, slots=True)
class Answers:
    """What a detector makes of N maps: every anchor's, and those of each image's proposals, one after another."""

    rpn: RpnOutput
    logits: Tensor  # (sum n, C + 1)
    deltas: Tensor  # (sum n, 4 * (C + 1))
    boxes: list[Tensor]  # the proposals of each image, (n, 4)


class SemiDFF(FlowDetector):
    """A detector and a flow network, taught by the detector itself."""

    config: SemiDFFConfig

    def __init__(self, config: SemiDFFConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.generator: FeatureGenerator | None = None
        if config.prediction == "generative":
            pair_channels = self.flow.heads.flow.in_channels
            self.generator = FeatureGenerator(pair_channels, self.detector.map_channels, config.generator_channels)
        self._stage: str | None = None
        # In a tuple, so that it is no submodule: neither trained nor saved.
        self._teacher: tuple[SingleFrameDetector, ...] = ()

    # ---- between the two halves

    def flow_between(self, current: Batch, key: Batch) -> FlowOutput:
        if self.generator is None:
            return super().flow_between(current, key)
        return describe_pair(self.flow, self.colours(current), self.colours(key))

    def propagate(self, key_map: Tensor, output: FlowOutput) -> Tensor:
        if self.generator is None:
            return super().propagate(key_map, output)
        assert isinstance(output, PairFeatures)
        generated: Tensor = self.generator(output.features, key_map)
        return generated

    # ---- training

    def begin_stage(self, stage: Stage) -> None:
        """As every method that propagates; what the detector is now becomes the teacher."""
        self._stage = stage.name
        super().begin_stage(stage)
        self._teacher = (copy.deepcopy(self.detector).requires_grad_(False).eval(),)

    def frozen_parts(self, stage: Stage) -> list[nn.Module]:
        trained = "temporal" if stage.name == REGRESSION else self.config.trained
        parts: list[nn.Module] = [] if self.generator is None else [self.flow.heads]
        if trained == "temporal":
            return [*parts, self.detector]
        return [*parts, *self.detector.feature_parts()] if trained == "temporal+task" else parts

    def train(self, mode: bool = True) -> Self:
        """The detector's batch norm keeps the statistics of stage 1: teacher and student differ in weights alone."""
        super().train(mode)
        self.detector.eval()
        return self

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """See ``vodbench.spec.Method.losses``. Annotations are not looked at."""
        batch, *supports = self._batches(clips)
        own, *earlier = self._teacher_maps(batch, *supports)
        key_maps = earlier[0] if self._keeps_features else self.detector.extract(supports[0])
        predicted = self.propagate(key_maps, self.flow_between(batch, supports[0]))
        found: dict[str, Tensor] = {}
        if self._stage in (REGRESSION, JOINT):
            target = self._steady(clips, earlier) if self.config.regression_loss == "steady" else own
            inside, absolute = self._inside(batch, own), self.config.regression_loss == "l1"
            found["regression"] = losses.feature_regression(predicted, target, inside, absolute=absolute)
        if self._stage in (SEMANTICS, JOINT):
            # A frame that is its own key frame answers from its own map, as in a stream.
            found |= self._semantic_losses(batch, own, torch.where(_own_key(clips, own), key_maps, predicted))
        return found

    @property
    def teacher(self) -> SingleFrameDetector:
        assert self._teacher, "there is a teacher from begin_stage on"
        return self._teacher[0]

    @property
    def _keeps_features(self) -> bool:
        """The features that are propagated are the teacher's, in this stage."""
        return self._stage == REGRESSION or self.config.trained != "temporal+spatial"

    def _batches(self, clips: Sequence[Clip]) -> list[Batch]:
        """Reference frames, then the first supports (the key frames), and so on, all padded to one size."""
        rows = list(zip(*[(clip.reference, *clip.supports) for clip in clips], strict=True))
        images = [frame.image for row in rows for frame in row]
        batch = self.detector.preprocess(images, [clip.flip for clip in clips] * len(rows))
        return [batch.part(start, start + len(clips)) for start in range(0, len(images), len(clips))]

    @torch.no_grad()
    def _teacher_maps(self, *batches: Batch) -> list[Tensor]:
        """The teacher's map of every image: (N, C, h, w) for each batch."""
        return [self.teacher.extract(batch) for batch in batches]

    def _steady(self, clips: Sequence[Clip], earlier: Sequence[Tensor]) -> Tensor:
        def times(support: int) -> Tensor:
            return torch.tensor([clip.supports[support].index for clip in clips], device=earlier[0].device)

        now = torch.tensor([clip.reference.index for clip in clips], device=earlier[0].device)
        return losses.steady_target((earlier[0], earlier[1]), (times(0), times(1)), now)

    def _semantic_losses(self, batch: Batch, own: Tensor, lent: Tensor) -> dict[str, Tensor]:
        """The terms that are switched on, of the student on ``lent`` maps and the teacher on the frames' ``own``."""
        config = self.config
        with torch.no_grad():
            wanted = answers(self.teacher, own, batch.sizes)
        given = answers(self.detector, lent, batch.sizes, wanted.boxes)
        inside, counts = self._inside(batch, own), [len(boxes) for boxes in wanted.boxes]
        temperature = float(config.temperature)
        found: dict[str, Tensor] = {}
        if config.inter_class:
            found["inter_class"] = losses.inter_class_loss(given.logits, wanted.logits, counts, temperature)
        if config.attention:
            found["attention"] = losses.attention_loss(given.rpn, wanted.rpn, inside, temperature)
        if config.bbox:
            anchors = losses.anchor_box_loss(given.rpn, wanted.rpn, inside)
            proposals = losses.proposal_box_loss(given.deltas, wanted.deltas, counts)
            found["bbox"] = config.box_weight * (anchors + proposals)
        return found

    def _inside(self, batch: Batch, maps: Tensor) -> Tensor:
        shape = (maps.shape[2], maps.shape[3])
        return losses.cells_inside(batch.sizes, shape, self.config.feature_stride, maps.device)


def answers(
    detector: SingleFrameDetector,
    feature_map: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: list[Tensor] | None = None,
) -> Answers:
    """What ``detector`` says of its own proposals, or of ``boxes`` where they are given."""
    rpn_map, roi_map = detector.maps(feature_map)
    rpn = detector.rpn(rpn_map)
    if boxes is None:
        boxes = [proposals.boxes for proposals in detector.propose_for_training(rpn, sizes)]
    logits, deltas = detector.predictor(detector.roi_features(detector.pool(roi_map, boxes)))
    return Answers(rpn, logits, deltas, boxes)


def _own_key(clips: Sequence[Clip], maps: Tensor) -> Tensor:
    """(N, 1, 1, 1): the clip's key frame is its reference frame."""
    own = [clip.supports[0].index == clip.reference.index for clip in clips]
    return torch.tensor(own, device=maps.device).view(-1, 1, 1, 1)
