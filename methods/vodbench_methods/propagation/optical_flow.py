"""The flow baseline of semi-DFF (Han et al., ACM MM 2018, Table 1): features propagated by plain optical flow.

The detector is trained on single frames and stays as it is. The flow network is trained for optical flow alone, on pairs
of frames whose flow is known: generated video, in the place of Flying Chairs. It has no say in how much of a propagated
feature is kept. Other methods of the family may start from its weights (``flow_start``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vodbench.errors import UserError
from vodbench.knobs import MethodConfig, knob
from vodbench.spec import Clip, MethodSpec, Stage
from vodbench.transforms import flip_flow
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.flow import multi_scale_loss
from vodbench_methods.flow.truth import resized
from vodbench_methods.propagation.config import SMALL, TINY, OpticalFlowConfig
from vodbench_methods.propagation.model import FlowDetector


class OpticalFlowDetector(FlowDetector):
    """A single-frame detector, and a flow network that knows nothing of it."""

    config: OpticalFlowConfig

    def frozen_parts(self, stage: Stage) -> list[nn.Module]:
        return [self.detector]

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """End-point error of the flow from the reference frames to their supports, in pixels."""
        batch, key = self.paired(clips)
        sizes = {*batch.sizes, *key.sizes}
        truth = torch.stack([self._truth(clip, size) for clip, size in zip(clips, batch.sizes, strict=True)])
        return {"flow": multi_scale_loss(self.flow.pyramid(self.colours(batch), self.colours(key)), truth)}
