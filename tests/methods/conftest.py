"""What the tests of several methods start from: small networks, made-up frames and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from vodbench.registry import method_spec
from vodbench.spec import Clip, ClipFrame, Image, MethodSpec, Truth
from vodbench.transforms import Resized
from vodbench_methods.detection.records import FrameFeatures

NUM_CLASSES = 3

# Applied on top of the preset "tiny" where the method has the knob: a forward pass of milliseconds.
SHRUNK = {
    "short_side": 48,
    "max_side": 64,
    "proposals": 10,
    "candidates": 50,
    "train_proposals": 10,
    "train_candidates": 50,
    "fc_channels": 32,
    "heads": 4,
    "T": 2,
    "K": 5,
    "r": 40.0,
    "test_frames": 3,
    "T_train": 2,
    "K_train": 5,
    "frame_range": 3,
    "categories": 2,
    "videos": 2,
    "score_threshold": 0.01,
    "max_detections": 60,
}


@dataclass(frozen=True)
class Tiny:
    """One method, small enough to be held against its equations written down."""

    spec: MethodSpec

    def config(self, **changes: Any) -> Any:
        shrunk = {name: value for name, value in SHRUNK.items() if name in self.spec.config.knobs()}
        return self.spec.config.from_mapping({**self.spec.presets["tiny"], **shrunk, **changes})

    def method(self, **changes: Any) -> Any:
        """In evaluation mode, every weight moved away from its start, so that none is idle."""
        torch.manual_seed(1)
        method: Any = self.spec.build(self.config(**changes), NUM_CLASSES)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return method.eval()

    def frames(self, numbers: Sequence[int]) -> list[FrameFeatures]:
        """Encoded frames with these numbers of proposals, best first."""
        generator, dim = torch.Generator().manual_seed(0), SHRUNK["fc_channels"]
        frames = []
        for number in numbers:
            corner = torch.rand(number, 2, generator=generator) * 30
            boxes = torch.cat([corner, corner + 2 + torch.rand(number, 2, generator=generator) * 15], dim=1)
            objectness = torch.rand(number, generator=generator).sort(descending=True).values
            features = torch.randn(number, dim, generator=generator)
            resized = Resized(np.empty((0, 0, 3), np.uint8), 1.0, 1.0)
            frames.append(FrameFeatures(boxes, objectness, features, (48, 48), resized))
        return frames

    def images(self, count: int, seed: int = 0, height: int = 48, width: int = 48) -> list[Image]:
        return list(np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8))

    def clip(
        self,
        images: Sequence[Image],
        *,
        number: int = 0,
        category: int | None = None,
        boxes: bool = True,
    ) -> Clip:
        """A reference frame, then its supports; two objects in each, one of the clip's category."""
        count = 2 if boxes else 0
        truth = Truth(
            np.array([[8, 8, 30, 30], [2, 20, 20, 44]], np.float32)[:count],
            np.array([category or 2, 3], np.int64)[:count],
            np.arange(count),
            np.zeros(count, bool),
            np.zeros(count, bool),
        )
        reference, *supports = (ClipFrame(i, image, truth) for i, image in enumerate(images))
        return Clip(number, f"s{number}", reference, tuple(supports), False, category)


@pytest.fixture
def method_name(request: pytest.FixtureRequest) -> str:
    """The method that the module names: ``METHOD``. A module about several has a fixture of its own."""
    return str(request.module.METHOD)


@pytest.fixture
def tiny(method_name: str) -> Tiny:
    return Tiny(method_spec(method_name))
