"""When a snippet deteriorates: strengths by track and frame, in bursts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from vodbench.spec import Floats
from vodbench_datasets.generated.config import DETERIORATIONS, GeneratorConfig

# deterioration -> (tracks, frames) strengths in [0, 1]. What touches the whole picture (blur, shake) holds for every
# track alike.
Strengths: TypeAlias = Mapping[str, Floats]

WHOLE_PICTURE = ("motion_blur", "defocus", "camera_shake")


def no_strengths(num_tracks: int, num_frames: int) -> dict[str, Floats]:
    """A snippet that nothing spoils."""
    return {kind: np.zeros((num_tracks, num_frames), np.float32) for kind in DETERIORATIONS}


def draw_strengths(config: GeneratorConfig, num_tracks: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Bursts of a snippet: each a deterioration, a track, a run of frames, a peak; where two meet, the stronger."""
    strengths = no_strengths(num_tracks, config.frames)
    kinds = [kind for kind in DETERIORATIONS if getattr(config, kind)[1] > 0]
    count = int(rng.integers(config.bursts[0], config.bursts[1], endpoint=True)) if kinds else 0
    for _ in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        rows = slice(None) if kind in WHOLE_PICTURE else int(rng.integers(num_tracks))
        length = min(int(rng.integers(*config.burst_frames, endpoint=True)), config.frames)
        start = int(rng.integers(0, config.frames - length, endpoint=True))
        burst = rng.uniform(*getattr(config, kind)) * _envelope(length)
        span = strengths[kind][rows, start : start + length]
        strengths[kind][rows, start : start + length] = np.maximum(span, burst)
    return strengths


def _envelope(length: int) -> Floats:
    """Rises to 1 and falls again, more than half of it near the peak."""
    phase = (np.arange(length, dtype=np.float32) + 0.5) / length
    return np.sqrt(np.sin(np.pi * phase))
