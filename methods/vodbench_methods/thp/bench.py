"""What partial updating saves: multiply-adds on paper, time as measured, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vodbench.device import synchronize
from vodbench.spec import Bools, Image
from vodbench_methods.detection.single_frame import SingleFrameDetector
from vodbench_methods.thp.context import KeyFrameContext
from vodbench_methods.thp.partial import PartialExtractor

SHARES = (0.1, 0.3, 0.6)
LARGEST_MOTION = 2.0  # cells


@dataclass(frozen=True, slots=True)
class Saving:
    """Of one frame of which a share is computed anew, against computing all of it; 0 is nothing, 1 everything."""

    share: float  # of the cells, computed anew
    ideal: float  # of the multiply-adds, saved
    measured: float  # of the time, saved
    difference: float  # largest deviation from the masked computation of everything, as a share of its largest value

    @property
    def measured_over_ideal(self) -> float:
        return self.measured / self.ideal


@dataclass(frozen=True, slots=True)
class PartialSavings:
    savings: tuple[Saving, ...]  # one a share asked for
    whole_ms: float  # ``detector.extract``
    keeping_ms: float  # what a key frame costs more, once, so that frames after it can be updated in parts


@torch.inference_mode()
def partial_savings(
    detector: SingleFrameDetector, images: Sequence[Image], *, shares: Sequence[float] = SHARES, repeats: int = 3
) -> PartialSavings:
    """Time ``detector`` (in evaluation mode) on the second of two images of one size, whole and in parts.

    The shares are blobs, as objects that changed leave them; motion is made up. On a CPU, times are the process's own
    CPU times, which other processes disturb little; the smallest of ``repeats`` in turns counts.
    """
    batches = [detector.preprocess([image]) for image in images[:2]]
    batch, device = batches[1], detector.device
    extractor, stride = PartialExtractor(detector), detector.config.feature_stride
    key_map, kept = extractor.whole(batches[0])
    height, width = key_map.shape[2:]
    flow = made_up_flow(height, width).to(device)
    masks = [torch.from_numpy(blobs(share, height, width)).to(device) for share in shares]

    def updated(mask: Tensor) -> Tensor:
        context = KeyFrameContext(kept, flow, stride, "exact")
        return extractor.updated(batch, mask[None, None].to(key_map.dtype), key_map, context)

    def kept_afresh() -> None:
        key, fresh = extractor.whole(batch)
        context = KeyFrameContext(fresh, flow, stride, "exact")
        extractor.updated(batch, masks[0][None, None].to(key.dtype), key_map, context)

    works: list[Callable[[], object]] = [lambda: detector.extract(batch), kept_afresh]
    works += [lambda mask=mask: updated(mask) for mask in masks]  # type: ignore[misc]
    whole_ms, afresh_ms, *updated_ms = _smallest_ms(works, repeats, device)
    savings = []
    for mask, milliseconds in zip(masks, updated_ms, strict=True):
        context = KeyFrameContext(kept, flow, stride, "exact")
        wanted = extractor.masked(batch, mask[None, None].to(key_map.dtype), key_map, context)
        difference = float((updated(mask) - wanted).abs().max() / wanted.abs().max())
        ideal = 1 - extractor.multiply_adds(batch, mask) / extractor.multiply_adds(batch, torch.ones_like(mask))
        share = float(mask.float().mean())
        savings.append(Saving(share, ideal, 1 - milliseconds / whole_ms, difference))
    return PartialSavings(tuple(savings), whole_ms, afresh_ms - whole_ms - updated_ms[0])


def blobs(share: float, height: int, width: int, seed: int = 0) -> Bools:
    """(height, width): ellipses of a tenth of the height or so until ``share`` of the cells is covered, to the cell."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask, wanted = np.zeros((height, width), np.bool_), round(share * height * width)
    while mask.sum() < wanted:
        centre = random.uniform((0, 0), (height, width))
        radii = height * random.uniform(0.08, 0.2, 2)
        distance = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2
        new = np.flatnonzero((distance < 1) & ~mask)
        nearest = new[np.argsort(distance.flat[new], kind="stable")]
        mask.flat[nearest[: wanted - mask.sum()]] = True
    return mask


def made_up_flow(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 2, height, width) cells."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(1, 2, height, width, generator=generator) - 1) * LARGEST_MOTION


def _smallest_ms(works: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    now = time.process_time if device.type == "cpu" else time.perf_counter
    smallest = [float("inf")] * len(works)
    for turn in range(repeats + 1):  # the first is slow, and not counted
        for index, work in enumerate(works):
            synchronize(device)
            started = now()
            work()
            synchronize(device)
            if turn:
                smallest[index] = min(smallest[index], 1e3 * (now() - started))
    return smallest
