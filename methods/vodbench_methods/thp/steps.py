"""What Algorithm 1 of THP can do with a frame; when it does what is the stream's to decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vodbench.spec import Clock, Image
from vodbench_methods.detection.records import Batch
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
