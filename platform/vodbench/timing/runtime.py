"""The runtime of a method: streamed at batch 1, warmed up, alone on the device.

What the figures mean
---------------------
frame cost  ``push`` time of a frame, plus its part of ``close`` (``frame_costs``). Decoding is not in it.
median, p95, p99, mean  over all frames of all accepted passes. The mean is exactly total time / frames.
low, high   95% interval of the mean: bootstrap over passes (frames of one pass are not independent).
fps         1000 / mean: the throughput that can be sustained, filling and emptying of buffers included.
stage_ms    mean a frame by stage; ``other`` is what the method did outside its stages.
peak memory on CUDA: most bytes that torch's allocator had given out in the timed passes (weights included). On a CPU:
            most bytes in tensors at once (weights included), counted operator by operator in a pass of its own.
GFLOPs      2 x multiply-adds of convolutions, matrix products and attention, in the steady state of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vodbench.data_source import DataSource
from vodbench.device import describe_device
from vodbench.errors import UserError
from vodbench.knobs import MethodConfig
from vodbench.records import Runtime
from vodbench.registry import method_spec
from vodbench.spec import GuidedMethod, Image, Method, SnippetInfo, Truth
from vodbench.timing.clock import torch_threads
from vodbench.timing.counting import Count, count
from vodbench.timing.gate import measuring
from vodbench.timing.passes import Pass, StartStream, timed_pass
from vodbench.timing.rounds import Rounds, measure_rounds
from vodbench.timing.sample import Frames, Sample, sample_snippets

WARMUP_FRAMES = 64
COUNTED_FRAMES = 96
BOOTSTRAP = 1000
REPEATS = 3  # undisturbed passes over the sampled snippets
NOT_COUNTED = "GFLOPs leave out what is no convolution, matrix product or attention (NMS, RoI pooling, elementwise)"


def measure_runtime(
    method: Method,
    config: MethodConfig,
    source: DataSource,
    split: str,
    *,
    num_snippets: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    threads: int = 1,
    repeats: int = REPEATS,
    name: str | None = None,
) -> Runtime:
    """What a frame costs, measured on a seeded sample of whole snippets.

    Waits until no other work of ours runs on this node (``vodbench.timing.gate``). A pass that had to share the
    processor is dropped and repeated, at most three times over; when too few undisturbed ones come together, the result
    is marked ``contended`` and its note says why.

    Args:
        method: with its weights, in evaluation mode; moved to ``device``.
        config: its inference knobs are used.
        num_snippets: how many snippets are drawn (all, when there are fewer); still images only if there is no video.
        threads: torch threads on the CPU. One is the reproducible setting for small models.
        repeats: undisturbed passes wanted of each snippet.
        name: the method's name in the METHODS table, whose declared latency is then reported and checked; without it,
            the latency is the one seen.

    Raises:
        UserError: an unknown split, one without snippets, or a number below 1.
    """
    _at_least_one(num_snippets=num_snippets)
    dataset = source.open()
    chosen = sample_snippets(dataset, split, num_snippets, seed)
    sample = Sample(dataset, split, chosen, skip_bad=bool(source.options.get("skip_bad", False)))
    return measure_sample(method, config, sample, seed=seed, device=device, threads=threads, repeats=repeats, name=name)


def measure_sample(
    method: Method,
    config: MethodConfig,
    sample: Frames,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    threads: int = 1,
    repeats: int = REPEATS,
    name: str | None = None,
) -> Runtime:
    """``measure_runtime`` on frames that are there already."""
    _at_least_one(threads=threads, repeats=repeats)
    assert isinstance(method, torch.nn.Module)
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    method.eval().to(device)
    longest = max(sample.snippets, key=lambda s: s.num_frames)

    def images(snippet: SnippetInfo) -> Iterator[Image]:
        return (image for image, _ in sample.annotated(snippet))

    def one_pass(snippet: SnippetInfo, stages: bool) -> Pass:
        return timed_pass(starts[snippet.id], images(snippet), device, threads=threads, stages=stages)

    with torch_threads(threads):
        starts = {snippet.id: _start(method, config, sample.annotated(snippet)) for snippet in sample.snippets}
        with measuring():
            # First calls are 4-17% slow (allocation, kernel choice, caches).
            timed_pass(starts[longest.id], islice(images(longest), WARMUP_FRAMES), device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            rounds = measure_rounds(partial(one_pass, stages=on_cpu), sample.snippets, repeats=repeats, device=device)
            allocated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
            # The stage clock synchronises an accelerator: there the split has passes of its own.
            staged = rounds.passes if on_cpu else [one_pass(snippet, stages=True) for snippet in sample.snippets]
        latency: int | None = max(p.latency_frames for p in rounds.passes)
        if name is not None:
            latency = _declared_latency(name, config, latency or 0)
        counted = count(method, starts[longest.id], list(islice(images(longest), COUNTED_FRAMES)), latency)
    return Runtime(
        **_figures(rounds, staged, counted, allocated, seed, on_cpu),
        decode_ms=1e3 * float(np.mean(sample.decode_seconds)) if sample.decode_seconds else 0.0,
        latency_frames=latency,
        device=describe_device(device),
        threads=threads,
    )


def _start(method: Method, config: MethodConfig, frames: Iterable[tuple[Image, Truth]]) -> StartStream:
    """Begins a stream of the snippet. One that looks at annotations has done so before: its decisions are timed."""
    if not isinstance(method, GuidedMethod) or not config.guided:
        return partial(method.stream, config)
    stream = method.guided_stream(config)
    with torch.inference_mode():
        for image, truth in frames:
            stream.push_annotated(image, truth)
    return stream.replayed


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name} = {value} is not accepted: an integer in [1, inf)")


def mean_interval(passes: Sequence[npt.NDArray[np.float64]], seed: int) -> tuple[float, float]:
    """95% interval of the mean over all frames: percentile bootstrap, whole passes drawn with replacement.

    A single pass is resampled frame by frame, as there is nothing else.
    """
    groups = list(passes) if len(passes) > 1 else [np.array([x]) for x in passes[0]]
    draw = np.random.default_rng(seed).integers(0, len(groups), (BOOTSTRAP, len(groups)))
    sums, counts = (np.array([statistic(group) for group in groups]) for statistic in (np.sum, len))
    low, high = np.percentile(sums[draw].sum(axis=1) / counts[draw].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _declared_latency(name: str, config: MethodConfig, seen: int) -> int | None:
    declared = method_spec(name).latency_frames(config)
    assert declared is None or seen <= declared, (
        f"{name}: declares a latency of {declared} frames, but {seen} were owed at once"
    )
    return declared


# ---- figures ------------------------------------------------------------------------------------------------


def _figures(
    rounds: Rounds, staged: Sequence[Pass], counted: Count, allocated: int | None, seed: int, on_cpu: bool
) -> dict[str, Any]:
    """What the passes say, by field of ``Runtime``."""
    frame_ms = np.concatenate([p.frame_ms for p in rounds.passes])
    low, high = mean_interval([p.frame_ms for p in rounds.passes], seed)
    stage_ms = mean_stages(staged)
    mean_ms = float(frame_ms.mean())
    notes = [*rounds.notes, NOT_COUNTED]
    if not counted.steady:
        notes.append("GFLOPs are of a whole snippet: it reaches no steady state")
    change = sum(stage_ms.values()) / mean_ms - 1
    if not on_cpu and abs(change) > 0.02:
        notes.append(f"stages were timed with synchronisation, which changed the total by {change:+.0%}")
    notes.append("peak memory is " + ("what tensors held" if allocated is None else "what torch's allocator gave out"))
    return {
        "median_ms": float(np.median(frame_ms)),
        "p95_ms": float(np.percentile(frame_ms, 95)),
        "p99_ms": float(np.percentile(frame_ms, 99)),
        "mean_ms": mean_ms,
        "low_ms": low,
        "high_ms": high,
        "fps": 1e3 / mean_ms,
        "stage_ms": stage_ms,
        "gflops": counted.gflops,
        "peak_memory_mb": counted.peak_tensor_mb if allocated is None else allocated / 1e6,
        "num_frames": len(frame_ms),
        "contended": rounds.contended,
        "note": "; ".join(notes),
        "rounds": rounds.tried,
    }


def mean_stages(passes: Sequence[Pass]) -> dict[str, float]:
    """Milliseconds a frame by stage, over all frames of the passes."""
    frames = sum(len(p.frame_ms) for p in passes)
    names = dict.fromkeys(name for p in passes for name in p.stage_ms)
    return {name: sum(p.stage_ms.get(name, 0.0) for p in passes) / frames for name in names}
