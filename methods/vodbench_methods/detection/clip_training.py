"""Learning from clips: the reference frame's RoIs are scored after its support frames had their say.

Shared by the methods that relate proposals. A frozen detector (``WarmStartConfig``) stays as its stage left it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vodbench.spec import Clip, Stage
from vodbench_methods.detection.freezing import PartlyFrozen
from vodbench_methods.detection.records import Batch, FrameFeatures, Proposals, RoiSamples, Target
from vodbench_methods.detection.rpn import RpnOutput
from vodbench_methods.detection.two_stage import TwoStageDetector


@dataclass(frozen=True, slots=True)
class Seen:
    """The frames of a batch of clips after the detector: the reference frame of every clip, then all support frames."""

    batch: Batch
    owner: Sequence[int]  # the clip that each image belongs to
    targets: Sequence[Target]  # of the reference frames
    c4: Tensor
    c5: Tensor
    output: RpnOutput
    proposals: Sequence[Proposals]
    samples: Sequence[RoiSamples]  # of the reference frames


class ClipTrainedDetector(PartlyFrozen, TwoStageDetector):
    """A two-stage detector whose head sees a whole clip; a subclass says how in ``related_samples``."""

    def begin_stage(self, stage: Stage) -> None:
        """Freeze the parts that the configuration says; everything else is trained."""
        self.load_backbone()
        self.train()
        self.freeze(self.frozen_parts())

    def frozen_parts(self) -> list[nn.Module]:
        """What stays as the detector's stage left it: backbone and RPN, or nothing."""
        parts = (self.backbone, self.reduction, self.rpn) if self.config.freeze_detector else ()
        return [part for part in parts if part is not None]

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """RPN losses (unless frozen) and head losses of the reference frames, each related to its clip."""
        seen = self.look_at(clips)
        features = self.related_samples(seen.c5, seen.batch, seen.proposals, seen.samples, seen.owner)
        return self.losses_of(seen, features)

    def look_at(self, clips: Sequence[Clip]) -> Seen:
        """What the detector sees in all frames of these clips, before any of them are related."""
        frames = [clip.reference for clip in clips] + [frame for clip in clips for frame in clip.supports]
        owner = [*range(len(clips)), *(i for i, clip in enumerate(clips) for _ in clip.supports)]
        batch = self.preprocess([f.image for f in frames], [clips[i].flip for i in owner])
        targets = self.targets(frames, batch)[: len(clips)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.backbone not in self._frozen):
            c4, c5 = self.features(batch)
            output = self.rpn(c4)
        proposals = self.propose_for_training(output, batch.sizes)
        samples = self.sample_rois(proposals[: len(clips)], targets)
        return Seen(batch, owner, targets, c4, c5, output, proposals, samples)

    def losses_of(self, seen: Seen, features: Tensor) -> dict[str, Tensor]:
        """The detector's losses, given the (sum n, D) related features of the sampled RoIs."""
        losses = self.head_losses(features, seen.samples)
        if self.rpn not in self._frozen:
            count, output = len(seen.samples), seen.output
            of_references = RpnOutput(output.logits[:count], output.deltas[:count], output.anchors, output.shape)
            losses |= self.rpn.losses(of_references, seen.batch.sizes[:count], seen.targets)
        return losses

    def related_samples(
        self,
        c5: Tensor,
        batch: Batch,
        proposals: Sequence[Proposals],
        samples: Sequence[RoiSamples],
        owner: Sequence[int],
    ) -> Tensor:
        """(sum n, D) features of the sampled RoIs, ready for the predictor.

        c5, batch and proposals hold the reference frame of every clip, then all support frames; image i belongs to
        clip ``owner[i]``. ``samples`` are the RoIs of the reference frames.
        """
        raise NotImplementedError

    def load_initial(self, weights: Mapping[str, Tensor]) -> None:
        """From a single-frame detector, or an earlier stage of the same kind.

        The detector's fully connected layers become this head's, in order. A square layer that the weights lack starts
        as the identity, so that training begins near the answers of what it came from; relations keep their start.
        """
        renamed = {name.replace("head.fcs.", "fcs.", 1): weight for name, weight in weights.items()}
        super().load_initial(renamed)
        for name, layer in self._square_layers().items():
            if f"{name}.weight" not in renamed:
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)

    def _square_layers(self) -> dict[str, nn.Linear]:
        """Fully connected layers from proposal features to proposal features, by name."""
        layers: Any = self.fcs
        return {f"fcs.{i}": layer for i, layer in enumerate(layers) if i}


def lent_frames(
    lent: Sequence[Proposals], features: Sequence[Tensor], batch: Batch, first: int = 0
) -> list[FrameFeatures]:
    """Training's frames as a stream would hold them: the proposals of images ``first`` and on, with their features."""
    return [
        FrameFeatures(p.boxes, p.objectness, f, batch.sizes[i], batch.resized[i])
        for i, (p, f) in enumerate(zip(lent, features, strict=False), start=first)
    ]
