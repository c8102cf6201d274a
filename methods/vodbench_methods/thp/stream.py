"""The unified inference of THP (Algorithm 1): one stream that is, by its options, every row of Table 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import torch
from torch import Tensor

from vodbench.spec import Clock, Image
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.streaming import Answer, Found
from vodbench_methods.flow import FlowOutput
from vodbench_methods.thp.context import KeptMaps
from vodbench_methods.thp.masks import updated_cells

if TYPE_CHECKING:
    from vodbench_methods.thp.config import THPConfig
    from vodbench_methods.thp.model import THP


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What later frames need of a key frame."""

    batch: Batch
    own: Tensor  # (1, C, h, w) F
    kept: KeptMaps | None  # F's earlier layers, where later frames may be updated in parts
    gathered: Tensor  # (1, C, h, w) F'
    shape: tuple[int, ...]  # of the original image


class Steps:
    """What can be done with a frame, under one configuration."""

    def __init__(self, method: THP, config: THPConfig, clock: Clock) -> None:
        self.method, self.config, self.clock = method, config, clock

    def prepared(self, image: Image) -> Batch:
        with self.clock.stage("preprocess"):
            return self.method.detector.preprocess([image])

    def flow(self, batch: Batch, key: KeyFrame) -> FlowOutput:
        with self.clock.stage("flow"):
            return self.method.flow_between(batch, key.batch)

    def wants_key(self, output: FlowOutput) -> bool:
        """Whether more of the frame would have to be computed anew than a frame between key frames may."""
        return float(updated_cells(output, self.config.update_threshold).float().mean()) > self.config.gamma

    def first(self, batch: Batch, image: Image) -> KeyFrame:
        """A key frame that nothing came before."""
        with self.clock.stage("backbone"):
            own, kept = self._extracted(batch)
        return KeyFrame(batch, own, kept, own, image.shape)

    def next(self, batch: Batch, key: KeyFrame, output: FlowOutput) -> KeyFrame:
        """A key frame after ``key``, its map joined to that one's."""
        with self.clock.stage("backbone"):
            own, kept = self._extracted(batch)
        if not self.config.aggregation:
            return KeyFrame(batch, own, kept, own, key.shape)
        with self.clock.stage("warp"):
            earlier = self.method.propagate(key.gathered, output)
        with self.clock.stage("aggregate"):
            gathered = self.method.aggregation(earlier, own)
        return KeyFrame(batch, own, kept, gathered, key.shape)

    def between(self, batch: Batch, key: KeyFrame, output: FlowOutput) -> Tensor:
        """(1, C, h, w) map that a frame which is no key frame answers from."""
        if not self.config.partial_updating:
            with self.clock.stage("warp"):
                return self.method.propagate(key.gathered, output)
        assert key.kept is not None, "a key frame of the same configuration"
        mask = updated_cells(output, self.config.update_threshold).to(key.own.dtype)
        with self.clock.stage("update"):
            own = self.method.partly_updated(batch, mask, key.own, key.kept, output, everywhere=False)
        if not self.config.aggregation:
            return own
        with self.clock.stage("warp"):
            earlier = self.method.propagate(key.gathered, output)
        with self.clock.stage("aggregate"):
            return self.method.aggregation.at(mask[0, 0].bool(), earlier, own)

    def _extracted(self, batch: Batch) -> tuple[Tensor, KeptMaps | None]:
        if self.config.partial_updating:
            return self.method.extractor.whole(batch)
        return self.method.detector.extract(batch), None


class UnifiedStream(Generic[Found]):
    """The answer to a frame is final at once. ``keys``: which frames are key frames, where that was decided before."""

    def __init__(
        self, method: THP, config: THPConfig, clock: Clock, answer: Answer[Found], keys: Iterator[bool] | None = None
    ) -> None:
        self._steps, self._answer, self._decided = Steps(method, config, clock), answer, keys
        self._key: KeyFrame | None = None
        self._since = 0  # frames since the key frame, it included

    @torch.inference_mode()
    def push(self, image: Image) -> list[Found]:
        steps, key = self._steps, self._key
        batch = steps.prepared(image)
        decided = self._decided_before()
        if key is None or image.shape != key.shape or (decided and not steps.config.aggregation):
            feature_map = self._begin(steps.first(batch, image))
        else:
            output = steps.flow(batch, key)
            if steps.wants_key(output) if decided is None else decided:
                feature_map = self._begin(steps.next(batch, key, output))
            else:
                feature_map = steps.between(batch, key, output)
        self._since += 1
        frame = steps.method.detector.frame_from(feature_map, batch, steps.config, steps.clock)
        with steps.clock.stage("post"):
            return [self._answer(frame, frame.features)]

    def close(self) -> list[Found]:
        return []

    def _decided_before(self) -> bool | None:
        """Whether this is a key frame; None where the flow network has to be asked."""
        if self._decided is not None:
            return next(self._decided)
        if self._steps.config.keys == "interval":
            return self._since >= self._steps.config.key_frame_interval
        return None

    def _begin(self, key: KeyFrame) -> Tensor:
        self._key, self._since = key, 0
        return key.gathered
