"""HVR-Net: relations of proposals within a video, then between videos (Han et al., ECCV 2020).

x the proposals of the reference frame, S those of the support frames, a_n a non-local module; with M intra-video
modules (``skip`` says what the last sees)::

    x_1 = fc_1(RoI),   y_n = ReLU(x_n + a_n(x_n, {S_n, x_n})),   x_{n+1} = fc_{n+1}(y_n)
    S_1 = fc_1(RoI),   S'_n = ReLU(S_n + a_n(S_n, S_n)),         S_{n+1} = fc_{n+1}(S'_n)
    the last module sees fc_M(ReLU(S_1)) besides S_M: the initial supports, past the modules

and with inter-video modules b::

    z = fc(y_M),   ReLU(z + b(z, sources))

In training the sources of a proposal are its P+ and P- from a triplet of videos (``triplets``). At test no labels and
no other videos are at hand; ``test_inter`` says what takes their place.

Ours: support frames are transformed among themselves, without the reference frame (in the published code they see it
too), so that those of a whole video are transformed once and serve every frame of it. The K best proposals of the
reference frame itself are attended to besides them, twice where it is a support frame too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vodbench.knobs import MethodConfig
from vodbench.spec import Clip, Clock, Detections, Image
from vodbench_methods.detection.box_head import fully_connected
from vodbench_methods.detection.clip_training import ClipTrainedDetector
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.detection.records import FrameFeatures
from vodbench_methods.detection.streaming import Answer, AnswerStream, Found
from vodbench_methods.hvrnet.config import HVRConfig
from vodbench_methods.hvrnet.non_local import Lent, NonLocal
from vodbench_methods.hvrnet.training import training_losses
from vodbench_methods.hvrnet.triplets import nearest
from vodbench_methods.sequence import detect_from_scratch, sequence_stream


class Pool:
    """The supports of a reference frame after the intra-video modules: what they lend to each, and what they became."""

    def __init__(self, lent: Sequence[Lent], features: Tensor, last: NonLocal | None) -> None:
        self.lent = lent  # one of each intra-video module
        self._features, self._last = features, last  # (P, D) before the last attention
        self._enhanced: Tensor | None = None

    @property
    def enhanced(self) -> Tensor:
        """(P, D) supports after the last module; computed when first asked for, since only inter modules see them."""
        if self._enhanced is None:
            attention = self._last.attend(self._features, self.lent[-1]) if self._last is not None else 0.0
            self._enhanced = F.relu(self._features + attention)
        return self._enhanced


class HVRNet(ClipTrainedDetector):
    """Faster R-CNN with intra-video and inter-video modules between the layers of its head."""

    config: HVRConfig

    def __init__(self, config: HVRConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        dim = config.fc_channels
        widths = [self.pooled_channels] + [dim] * (config.intra_modules - 1)
        self.fcs = nn.ModuleList(fully_connected(width, dim) for width in widths)
        self.intra = nn.ModuleList(NonLocal(dim) for _ in range(config.intra_modules))
        self.inter_fcs = nn.ModuleList(fully_connected(dim, dim) for _ in range(config.inter_modules))
        self.inter = nn.ModuleList(NonLocal(dim) for _ in range(config.inter_modules))

    # ---- a frame by itself

    def encoding_settings(self, config: MethodConfig) -> Mapping[str, Any]:
        config = cast(HVRConfig, config)
        return {"candidates": config.candidates, "encoded_proposals": config.encoded_proposals}

    @torch.inference_mode()
    def encode(self, image: Image, config: HVRConfig, clock: Clock | None = None) -> FrameFeatures:
        """Proposals of a frame and their features after the first layer, before any ReLU."""
        first = self.fcs[0]
        return self.encode_frame(image, config.candidates, config.encoded_proposals, first, clock or NullClock())

    def support(self, frame: FrameFeatures) -> Tensor:
        """What a frame lends: (k, D) features of the proposals given (take ``frame.top(K)``)."""
        return frame.features

    # ---- within a video

    def gather(self, supports: Sequence[Tensor]) -> Pool:
        """Transform supports among themselves; there may be none."""
        initial = torch.cat([*supports, torch.zeros(0, self.config.fc_channels, device=self.device)])
        features = initial
        lent: list[Lent] = []
        for index, module in enumerate(self._intra):
            if index:
                attention = self._intra[index - 1].attend(features, lent[-1])
                features = self.fcs[index](F.relu(features + attention))
            lent.append(module.lend(self._offered(index, features, initial)))
        return Pool(lent, features, self._intra[-1] if lent else None)

    def relate_within(self, initial: Tensor, own: slice, pool: Pool) -> Tensor:
        """(Q, D) proposals of a reference frame after the intra-video modules, from those after the first layer.

        They attend to the pool and to the rows ``own`` of themselves.
        """
        features = initial
        for index, module in enumerate(self._intra):
            if index:
                features = self.fcs[index](features)
            lent = module.lend(self._offered(index, features[own], initial[own]))
            features = F.relu(features + module.attend(features, Lent.concatenate([pool.lent[index], lent])))
        return features if len(self._intra) else F.relu(features)

    def _offered(self, index: int, features: Tensor, initial: Tensor) -> Tensor:
        """What proposals show to intra-video module ``index``."""
        skip = self.config.skip
        if index == 0 or index < len(self.intra) - 1 or skip == "transformed":
            return features
        past = self.fcs[index](F.relu(initial))
        return past if skip == "initial" else torch.cat([features, past])

    @property
    def _intra(self) -> list[NonLocal]:
        return [cast(NonLocal, module) for module in self.intra]

    # ---- between videos

    def relate_between(
        self, features: Tensor, own: slice, others: Tensor, sources: Tensor | None, *, attend: bool = True
    ) -> Tensor:
        """(Q, D) proposals after the inter-video modules, ready for the predictor.

        They attend to the rows ``own`` of themselves and to ``others`` (P, D); ``sources`` (Q, own + P) says to which
        (None: to all). Without ``attend`` the modules are left out, not the layers before them.
        """
        for index, (layer, module) in enumerate(zip(self.inter_fcs, self.inter, strict=True)):
            module = cast(NonLocal, module)
            features = layer(features)
            if attend:
                others = layer(others)
                lent = module.lend(torch.cat([features[own], others]))
                if index < len(self.inter) - 1:
                    others = F.relu(others + module.attend(others, lent))
                features = features + module.attend(features, lent, sources)
            features = F.relu(features)
        return features

    # ---- a frame among others

    def relate(self, frame: FrameFeatures, pool: Pool, config: HVRConfig) -> Tensor:
        """(n, D) features of a frame's proposals, ready for the predictor, at test."""
        own = slice(0, config.K)
        features = self.relate_within(frame.features, own, pool)
        if not len(self.inter) or config.test_inter == "off":
            return self.relate_between(features, own, features[:0], None, attend=False)
        sources = _most_similar(features, own, pool.enhanced) if config.test_inter == "nearest" else None
        return self.relate_between(features, own, pool.enhanced, sources)

    def answer_stream(self, config: HVRConfig, clock: Clock, answer: Answer[Found]) -> AnswerStream[Found]:
        return sequence_stream(self, config, clock, answer)

    @torch.inference_mode()
    def detect_in_video(self, images: Sequence[Image], reference: int, config: HVRConfig) -> Detections:
        """Clip-wise inference: detections of one frame of a whole video, from scratch. A stream must agree."""
        return detect_from_scratch(self, [self.encode(image, config) for image in images], reference, config)

    # ---- training

    def frozen_parts(self) -> list[nn.Module]:
        if self.config.freeze_detector or not self.config.freeze_conv4:
            return super().frozen_parts()
        return [*(module for stage in self.backbone.stages()[:4] for module in stage), self.rpn]

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """RPN losses (unless frozen) and head losses of the reference frames, and the relation loss.

        Clips of one group (by their numbers) relate to each other; a group may be incomplete, even a single clip.
        """
        return training_losses(self, clips)

    def _square_layers(self) -> dict[str, nn.Linear]:
        between = {f"inter_fcs.{i}": cast(nn.Linear, layer) for i, layer in enumerate(self.inter_fcs)}
        return {**super()._square_layers(), **between}


def _most_similar(features: Tensor, own: slice, others: Tensor) -> Tensor:
    """(Q, own + P) bool: the two most similar proposals of each, itself left out."""
    candidates = F.normalize(torch.cat([features[own], others]).float(), dim=1)
    similarity = F.normalize(features.float(), dim=1) @ candidates.T
    others_than_itself = ~torch.eye(*similarity.shape, dtype=torch.bool, device=features.device)
    return nearest(similarity, others_than_itself, 2)
