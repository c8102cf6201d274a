"""The unified inference of THP (Algorithm 1): one stream that is, by its options, every row of Table 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Generic

import numpy as np
import torch
from torch import Tensor

from vodbench.spec import Clock, Image
from vodbench_methods.detection.records import Batch
from vodbench_methods.detection.streaming import Answer, Found
from vodbench_methods.flow import FlowOutput
from vodbench_methods.flow.drawing import draw_mask, flow_picture
from vodbench_methods.thp.masks import updated_cells
from vodbench_methods.thp.steps import KeyFrame, Steps

if TYPE_CHECKING:
    from vodbench_methods.thp.config import THPConfig
    from vodbench_methods.thp.model import THP


class UnifiedStream(Generic[Found]):
    """The answer to a frame is final at once. ``keys``: which frames are key frames, where that was decided before."""

    shows = ("flow", "mask")

    def __init__(
        self, method: THP, config: THPConfig, clock: Clock, answer: Answer[Found], keys: Iterator[bool] | None = None
    ) -> None:
        self._steps, self._answer, self._decided = Steps(method, config, clock), answer, keys
        self._key: KeyFrame | None = None
        self._since = 0  # frames since the key frame, it included
        self._seen: tuple[Image, FlowOutput | None] | None = (
            None  # the last frame; what was propagated to it, if it was
        )

    @torch.inference_mode()
    def push(self, image: Image) -> list[Found]:
        steps = self._steps
        batch = steps.prepared(image)
        feature_map = self._map_of(image, batch)
        self._since += 1
        frame = steps.method.detector.frame_from(feature_map, batch, steps.config, steps.clock)
        with steps.clock.stage("post"):
            return [self._answer(frame, frame.features)]

    def close(self) -> list[Found]:
        return []

    def pictures(self) -> Mapping[str, Image]:
        """Of the last frame: the flow to its key frame, and what was computed anew, which is all of a key frame."""
        assert self._seen is not None, "a frame was pushed"
        assert self._key is not None
        image, output = self._seen
        mask = np.full(self._key.own.shape[2:], output is None)
        if output is not None and self._steps.config.partial_updating:
            mask = updated_cells(output, self._steps.config.update_threshold)[0, 0].cpu().numpy()
        return {"flow": flow_picture(output, self._key.own), "mask": draw_mask(image, mask)}

    def _map_of(self, image: Image, batch: Batch) -> Tensor:
        steps, key, decided = self._steps, self._key, self._decided_before()
        self._seen = image, None
        if key is None or image.shape != key.shape or (decided and not steps.config.aggregation):
            return self._begin(steps.first(batch, image))
        output = steps.flow(batch, key)
        if steps.wants_key(output) if decided is None else decided:
            return self._begin(steps.next(batch, key, output))
        self._seen = image, output
        return steps.between(batch, key, output)

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
