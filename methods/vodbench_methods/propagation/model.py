"""A detector in two halves with a flow network between them (Zhu et al., Deep Feature Flow, CVPR 2017, Sec. 4).

    F_k = N_feat(I_k),   (M, S) = N_flow(I_i, I_k),   y_i = N_task( W(F_k, M) * S )

N_feat and N_task are ``extract`` and all that follows it in a ``SingleFrameDetector``; W is the bilinear warp, S the
scale map. A key frame answers from its own map, without a warp. Training goes the same way: a frame's losses are the
detector's own, on the map that its key frame lends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Detections, Image, Stage, Stream
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.freezing import PartlyFrozen
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.rpn import RegionProposalNetwork
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found, inference_config
from vodbench_methods.detection.warm_start import narrowed
from vodbench_methods.flow import Convention, FlowNetwork, FlowOutput, build_flow_network, warp
from vodbench_methods.propagation.config import DETECTORS, FlowNetworkConfig
from vodbench_methods.propagation.flow_weights import load_flow_weights
from vodbench_methods.propagation.stream import KeyFrameStream, detect_from_key_frame

DETECTOR = "detector."  # the prefix of the detector's weights


class FlowDetector(PartlyFrozen):
    """``detector`` and ``flow``; every weight belongs to one of them (``detector.*``, ``flow.*``)."""

    config: Any  # a FlowNetworkConfig; methods narrow it

    def __init__(self, config: FlowNetworkConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        spec = DETECTORS[config.detector]
        self.detector = cast(SingleFrameDetector, spec.build(narrowed(config, spec.config), num_classes))
        self.flow: FlowNetwork = build_flow_network(
            config.flow_network,
            feature_stride=config.feature_stride,
            map_channels=self.detector.map_channels if config.flow_scale else None,
            with_update=self.predicts_update,
            initialisation=config.flow_initialisation,
            mean=config.flow_mean,
            **({} if config.flow_odd_sizes == "pad" else {"odd_sizes": config.flow_odd_sizes}),
        )
        self._flow_is_trained = False

    predicts_update = False  # of the flow network: where the propagated map should be computed anew

    @property
    def rpn(self) -> RegionProposalNetwork:
        return self.detector.rpn

    # ---- the two halves and what is between them

    def flow_between(self, current: Batch, key: Batch) -> FlowOutput:
        """What the flow network says of every image of ``current`` and the image of ``key`` at its place."""
        output: FlowOutput = self.flow(self.colours(current), self.colours(key))
        return output

    def colours(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) RGB in 0..1; padding is the mean colour, as the backbone sees it."""
        tensor = batch.tensor * self.detector.pixel_std + self.detector.pixel_mean
        return (tensor.flip(1) if self.config.channel_order == "bgr" else tensor) / 255

    def propagate(self, key_map: Tensor, output: FlowOutput) -> Tensor:
        """(N, C, h, w) maps of the key frames as the current frames see them."""
        warped = warp(key_map, output.flow, cast(Convention, self.config.warp))
        return warped if output.scale is None else warped * output.scale

    # ---- training

    def begin_stage(self, stage: Stage) -> None:
        """Start from published weights where none were loaded, and freeze what ``frozen_parts`` names."""
        self.detector.load_backbone()
        self.load_flow()
        self.requires_grad_(True)
        self.detector.backbone.freeze(self.config.frozen_stages)
        self.train()
        self.freeze(self.frozen_parts(stage))

    def frozen_parts(self, stage: Stage) -> list[nn.Module]:
        """What this stage does not train."""
        return [self.detector] if self.config.freeze_detector else []

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """The detector's losses of the clips' reference frames, on maps of their key frames (the first support)."""
        batch, key = self.paired(clips)
        propagated = self.propagated_maps(clips, batch, key, self.detector.extract(key))
        targets = self.detector.targets([clip.reference for clip in clips], batch)
        return self.detector.losses_from(propagated, batch, targets)

    def propagated_maps(self, clips: Sequence[Clip], batch: Batch, key: Batch, key_maps: Tensor) -> Tensor:
        """(N, C, h, w) maps of the reference frames; one that is its own key frame has its own map, as in a stream."""
        propagated = self.propagate(key_maps, self.flow_between(batch, key))
        if self.config.warped_key_frames:
            return propagated
        return self.own_where_key(clips, key_maps, propagated)

    def own_where_key(self, clips: Sequence[Clip], key_maps: Tensor, maps: Tensor) -> Tensor:
        """``maps`` (N, C, h, w), but the key frame's where that is the reference frame itself."""
        own = torch.tensor([clip.supports[0].index == clip.reference.index for clip in clips], device=maps.device)
        return torch.where(own.view(-1, 1, 1, 1), key_maps, maps)

    def paired(self, clips: Sequence[Clip], support: int = 0) -> tuple[Batch, Batch]:
        """Reference frames, and the support frame of that number of each, padded to one size."""
        frames = [clip.reference for clip in clips] + [clip.supports[support] for clip in clips]
        batch = self.detector.preprocess([f.image for f in frames], [clip.flip for clip in clips] * 2)
        return batch.part(0, len(clips)), batch.part(len(clips), 2 * len(clips))

    # ---- inference

    def stream(self, config: MethodConfig | None = None, clock: Clock | None = None) -> Stream:
        """See ``vodbench.spec.Method.stream``."""
        own: FlowNetworkConfig = inference_config(self.config, config)
        clock = clock or NullClock()
        return self.detector.linked(own, clock, partial(self.answer_stream, own, clock))

    def answer_stream(self, config: Any, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return KeyFrameStream(self, config, clock, answer)

    def detect_in_video(self, images: Sequence[Image], reference: int, config: Any) -> Detections:
        """Frame ``reference`` computed from scratch."""
        return detect_from_key_frame(self, images, reference, config)

    # ---- weights

    def load_flow(self) -> None:
        """Give a flow network that holds random numbers the weights of ``config.flow_weights``, if any."""
        path = getattr(self.config, "flow_weights", None)
        if path is not None and not self._flow_is_trained:
            load_flow_weights(self.flow, path)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict, assign)
        self.detector.mark_loaded()
        self._flow_is_trained = any(name.startswith("flow.") for name in state_dict)
        return result

    def load_initial(self, weights: Mapping[str, Tensor]) -> None:
        """From a single-frame detector (everything but the flow network), or an earlier stage of the same kind."""
        if any(name.startswith(DETECTOR) for name in weights):
            own = self.state_dict()
            self.load_state_dict(
                {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}, strict=False
            )
        else:
            self.detector.load_initial(weights)
