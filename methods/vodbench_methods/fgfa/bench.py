"""What keeping maps and embeddings saves: streaming FGFA against computing its whole window at every step."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
import torch

from vodbench.bench.runtime import MadeUpFrames
from vodbench.spec import Detections
from vodbench_methods.detection.measure import assert_exact, largest_difference, timed
from vodbench_methods.fgfa.config import FGFAConfig
from vodbench_methods.fgfa.model import FGFA
from vodbench_methods.fgfa.stream import FGFAStream

NUM_CLASSES = 30
SEED = 0
ENCODED_FRAMES = 3  # different frames that fill the window, over and over: what a frame costs does not depend on them


def cache_speedup(config: FGFAConfig, device: torch.device, frames: int = 3) -> dict[str, Any]:
    """A frame with a full window, streamed and from scratch in turns, ``frames`` times; weights are random.

    ``fgfa_cache_speedup``: median of the latter over that of the former. Both run 2T + 1 pairs through the flow network
    and warp as many maps; what the stream saves is 2T of 2T + 1 backbone passes and embeddings. Raises ``RuntimeError``
    when the two do not find the same.
    """
    torch.manual_seed(SEED)
    method = FGFA(config, NUM_CLASSES).eval().to(device)
    sample = MadeUpFrames(1, max(frames, ENCODED_FRAMES), config.short_side)
    images = list(sample.images(sample.snippets[0]))
    stream = cast(FGFAStream[Detections], method.stream())
    encoded = [method.encode(image, config) for image in images[:ENCODED_FRAMES]]
    filled = [place % ENCODED_FRAMES for place in range(2 * config.T + 1)]
    for place in filled:
        stream.push_encoded(encoded[place])
    window = [images[place] for place in filled]
    method.detect_in_video(window, config.T, config)  # first calls are slow
    streamed_ms, scratch_ms, difference = [], [], 0.0
    for image in images[:frames]:
        window = [*window[1:], image]
        milliseconds, (found,) = timed(partial(stream.push, image), device)
        streamed_ms.append(milliseconds)
        milliseconds, wanted = timed(partial(method.detect_in_video, window, config.T, config), device)
        scratch_ms.append(milliseconds)
        difference = max(difference, largest_difference(found, wanted))
    assert_exact(difference, "what the stream finds in a window")
    return {
        "T": config.T,
        "stream_ms": float(np.median(streamed_ms)),
        "window_ms": float(np.median(scratch_ms)),
        "fgfa_cache_speedup": float(np.median(scratch_ms) / np.median(streamed_ms)),
        "largest_difference": difference,
    }
