"""Algorithm 1 as it is written: every frame computed everywhere, then masked. The streams' oracle; slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vodbench.spec import Detections, Image
from vodbench_methods.detection.clock import NullClock
from vodbench_methods.thp.masks import updated_cells

if TYPE_CHECKING:
    from vodbench_methods.thp.config import THPConfig
    from vodbench_methods.thp.model import THP


@torch.inference_mode()
def detect_by_definition(method: THP, images: Sequence[Image], reference: int, config: THPConfig) -> Detections:
    """Detections of frame ``reference`` from all frames up to it, which are of one size."""
    feature_map = _map_of(method, images[: reference + 1], config)
    batch = method.detector.preprocess([images[reference]])
    frame = method.detector.frame_from(feature_map, batch, config, NullClock())
    return method.detector.detections(frame, frame.features, config)


def _map_of(method: THP, images: Sequence[Image], config: THPConfig) -> Tensor:
    """F' of the last image."""
    key_batch = method.detector.preprocess([images[0]])
    key_own, kept = method.extractor.whole(key_batch)
    key_gathered = gathered = key_own
    since = 0
    for image in images[1:]:
        since += 1
        batch = method.detector.preprocess([image])
        output = method.flow_between(batch, key_batch)
        mask = updated_cells(output, config.update_threshold).float()
        is_key = since >= config.key_frame_interval if config.keys == "interval" else mask.mean() > config.gamma
        if is_key:
            mask = torch.ones_like(mask)
        elif not config.partial_updating:
            mask = torch.zeros_like(mask)
        own = method.partly_updated(batch, mask, key_own, kept, output, everywhere=True)
        earlier = method.propagate(key_gathered, output)
        gathered = torch.where(mask > 0, method.aggregation(earlier, own), earlier) if config.aggregation else own
        if is_key:
            key_batch, key_own, key_gathered, since = batch, own, gathered, 0
            _, kept = method.extractor.whole(batch)
    return gathered
