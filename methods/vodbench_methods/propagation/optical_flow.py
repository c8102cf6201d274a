"""The flow baseline of semi-DFF (Han et al., ACM MM 2018, Table 1): features propagated by plain optical flow.

The detector is trained on single frames and stays as it is. The flow network is trained for optical flow alone, on
pairs of frames whose flow is known: generated video, in the place of Flying Chairs. It has no say in how much of a
propagated feature is kept. Other methods of the family may start from its weights (``flow_start``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, MethodSpec, Stage
from vodbench.transforms import flip_flow
from vodbench_methods.detection.faster_rcnn import latency
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.rows import method_row
from vodbench_methods.flow import ScaledFlow, multi_scale_loss
from vodbench_methods.flow.truth import resized
from vodbench_methods.propagation.config import (
    OPTICAL_FLOW_SMALL,
    OPTICAL_FLOW_TINY,
    FlowConfig,
    OpticalFlowConfig,
)
from vodbench_methods.propagation.model import FlowDetector


class OpticalFlowDetector(FlowDetector):
    """A single-frame detector, and a flow network that knows nothing of it."""

    config: OpticalFlowConfig

    def frozen_parts(self, stage: Stage) -> list[nn.Module]:
        return [self.detector]

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """End-point error of the flow from the reference frames to their supports, in pixels."""
        batch, other = self.paired(clips)
        pyramid = self.flow.pyramid(self.colours(batch), self.colours(other))
        # Clip by clip: a mean over the known pixels of a batch would weigh the clips by how much of them is known.
        losses = [
            multi_scale_loss([_one(level, index) for level in pyramid], known_flow(clip, batch, index))
            for index, clip in enumerate(clips)
        ]
        return {"flow": torch.stack(losses).mean()}


def known_flow(clip: Clip, batch: Batch, index: int) -> Tensor:
    """(1, 2, H, W) flow from image ``index`` of ``batch``, the clip's reference frame, to its support.

    In pixels of the batch; NaN where it is unknown, padding included.
    """
    flow = clip.supports[0].flow
    assert flow is not None, "the clips of this stage carry flow"
    truth = torch.from_numpy(flip_flow(flow) if clip.flip else flow).to(batch.tensor.device).permute(2, 0, 1)
    height, width = batch.sizes[index]
    padding = (0, batch.tensor.shape[3] - width, 0, batch.tensor.shape[2] - height)
    return F.pad(resized(truth, (height, width)), padding, value=torch.nan)[None]


def _one(level: ScaledFlow, index: int) -> ScaledFlow:
    return ScaledFlow(level.flow[index : index + 1], level.stride)


def propagation_method(
    name: str,
    detector: type[FlowDetector],
    config: type[FlowConfig],
    *,
    summary: str,
    paper: str,
    presets: Mapping[str, Mapping[str, Any]],
) -> MethodSpec:
    """The METHODS row of a ``detector`` with one stage of its own, after those that it starts from."""

    def stages(given: FlowConfig) -> tuple[Stage, ...]:
        schedule = given.propagation_schedule()
        own = Stage(name="propagation", method=name, config=given, clips=given.clips(), schedule=schedule)
        return (*_earlier_stages(given), own)

    return method_row(name, detector, config, stages, summary=summary, paper=paper, presets=presets)


def _earlier_stages(config: FlowConfig) -> tuple[Stage, ...]:
    """Those of the detector, or of this baseline too: whatever the method does later, they are shared with it."""
    if config.flow_start == "optical-flow":
        own = {"freeze_detector": True, "flow_scale": False}
        known = {name: getattr(config, name) for name in OpticalFlowConfig.knobs() if name in config.knobs()}
        return _stages(OpticalFlowConfig(**{**known, **own}))
    return config.detector_stages() if config.warm_start == "detector" else ()


def _build(config: MethodConfig, num_classes: int) -> OpticalFlowDetector:
    assert isinstance(config, OpticalFlowConfig)
    return OpticalFlowDetector(config, num_classes)


def _stages(config: MethodConfig) -> tuple[Stage, ...]:
    assert isinstance(config, OpticalFlowConfig)
    own = Stage(
        name="flow", method=SPEC.name, config=config, clips=config.flow_pairs(), schedule=config.flow_schedule()
    )
    return (*config.detector_stages(), own)


SPEC = MethodSpec(
    name="r-fcn-flow",
    summary="features of sparse key frames, propagated by a network that was trained for optical flow alone",
    paper="Han et al., Semi-Supervised DFF, ACM MM 2018, Table 1 (R-FCN flow)",
    config=OpticalFlowConfig,
    presets={"paper": {}, "small": OPTICAL_FLOW_SMALL, "tiny": OPTICAL_FLOW_TINY},
    build=_build,
    stages=_stages,
    latency_frames=latency,
)
