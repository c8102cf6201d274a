"""``vodbench bench relation``: RDN's relation stages beside a straightforward reading of them, in one run.

Symbols: N_b basic modules, T support frames a side, K proposals a support frame, Q reference proposals, P = (2T + 1) K
supportive ones, D features, H heads.

- **stages**: what relates one reference frame: N_b basic modules (Q x P), the refinement of the best r% (P r/100 x P),
  the distillation (Q x P r/100) and the fully connected layers between. Compared as RDN streams it: a frame enters,
  its keys, values and partial sums are made, the oldest leaves. ``scratch`` is the same with nothing kept.
- **module**: one module, Q x P; ``cached`` with keys and values at hand, as they are in a stream.

The straightforward form makes the embedding of every pair in full (once for the basic modules, which see the same
boxes), weighs raw features and projects the sum, as the public implementations do.

Time: medians of interleaved repeats; on a CPU one thread and processor time, so that a busy machine slows both alike.
Memory: bytes in tensors at once, everything alive counted: weights, input and what a stream keeps between frames
(``held``); ``working_memory_ratio`` compares what a run makes beyond that. Read between operators: scratch inside one
(packing of matrix products) is not seen, on either side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from vodbench.cli import shared
from vodbench.device import describe_device, pick_device, synchronize
from vodbench.errors import UserError
from vodbench.timing.counting import PeakTensorBytes
from vodbench.timing.gate import measuring
from vodbench_methods.relation.workload import Form, Run, Workload, module_forms, stage_forms

EPILOG = shared.example("vodbench bench relation --json", "vodbench bench relation --device cuda --json")

BASE = "straightforward"
HEADLINES = ("speedup", "memory_ratio", "working_memory_ratio")
TOLERANCE = 1e-4
# A share of the largest output: bfloat16 keeps 8 bits, and a result is rounded in some ten places on its way.
TOLERANCE_BF16 = 10 * 2.0**-8


def command(
    repeats: Annotated[int, typer.Option(help="Timed repeats of each form, interleaved.")] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "cpu",
    queries: Annotated[int, typer.Option(help="Proposals of the reference frame.")] = 300,
    T: Annotated[int, typer.Option("--T", help="Support frames a side.")] = 18,
    K: Annotated[int, typer.Option("--K", help="Proposals a support frame.")] = 75,
    dim: Annotated[int, typer.Option(help="Width of the features.")] = 1024,
    heads: Annotated[int, typer.Option(help="Heads of a module.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Relation stages of RDN: speed-up and share of memory against the geometry embedding in full, results compared."""
    for name, value in (("repeats", repeats), ("queries", queries), ("T", T), ("K", K), ("dim", dim), ("heads", heads)):
        if value < 1:
            raise UserError(f"--{name} {value} is not accepted: an integer in [1, inf)")
    if dim % heads:
        raise UserError(f"--heads {heads} does not divide --dim {dim}; choose a divisor of it")
    place = pick_device(device)
    work = Workload(queries=queries, T=T, K=K, dim=dim, heads=heads, seed=seed, device=place)
    shared.announce("bench relation", config=work.sizes(), seed=seed, device=describe_device(place))
    with measuring(), one_thread():
        figures = compare(work, repeats, bfloat16=place.type == "cuda")
    if json:
        return shared.print_json(figures)
    for name, value in figures.items():
        typer.echo(f"{name:36} {value:,.6g}" if isinstance(value, float) else f"{name:36} {value}")
    return None


def compare(work: Workload, repeats: int, *, bfloat16: bool) -> dict[str, Any]:
    """All figures by name, with ``bfloat16`` a second time in automatic mixed precision.

    ``RuntimeError`` when a form's result differs from the straightforward one in float32.
    """
    found: dict[str, Any] = {}
    for part, forms in (("stages", stage_forms(work)), ("module", module_forms(work))):
        with torch.inference_mode():
            expected = forms[BASE].prepare()()
            found |= measure_part(part, forms, expected, work.device, repeats, TOLERANCE)
            if bfloat16:
                tolerance = TOLERANCE_BF16 * float(expected.abs().max())
                with torch.autocast(work.device.type, dtype=torch.bfloat16):
                    found |= measure_part(f"bf16_{part}", forms, expected, work.device, repeats, tolerance)
    headline = {name: found[f"stages_streamed_{name}"] for name in HEADLINES}
    return {**work.sizes(), "device": describe_device(work.device), **headline, **found}


def measure_part(
    part: str,
    forms: Mapping[str, Form],
    expected: Tensor,
    device: torch.device,
    repeats: int,
    tolerance: float,
) -> dict[str, Any]:
    """Each form's time, memory and ratios; ``expected`` is the straightforward result in float32."""
    runs = {name: form.prepare() for name, form in forms.items()}
    differences = {name: checked_difference(name, run(), expected, tolerance) for name, run in runs.items()}
    milliseconds = median_milliseconds(runs, device, repeats)
    del runs
    memory = {name: peak_and_held_mb(form) for name, form in forms.items()}
    figures: dict[str, Any] = {f"{part}_largest_output": float(expected.abs().max())}
    for name in forms:
        figures[f"{part}_{name}_ms"] = milliseconds[name]
        figures[f"{part}_{name}_peak_mb"], figures[f"{part}_{name}_held_mb"] = memory[name]
        figures[f"{part}_{name}_largest_difference"] = differences[name]
        if name != BASE:
            figures[f"{part}_{name}_speedup"] = milliseconds[BASE] / milliseconds[name]
            figures[f"{part}_{name}_memory_ratio"] = memory[name][0] / memory[BASE][0]
            made = {n: peak - held for n, (peak, held) in memory.items()}
            figures[f"{part}_{name}_working_memory_ratio"] = made[name] / made[BASE]
    return figures


def checked_difference(name: str, result: Tensor, expected: Tensor, tolerance: float) -> float:
    difference = float((result - expected).abs().max())
    if not difference <= tolerance:  # NaN fails too
        raise RuntimeError(f"{name} differs by {difference:.2g}; the speed of a wrong result means nothing")
    return difference


def median_milliseconds(runs: Mapping[str, Run], device: torch.device, repeats: int) -> dict[str, float]:
    """Of interleaved repeats: whatever slows the machine for a while slows all forms."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run, device))
    return {name: 1e3 * median(taken) for name, taken in seconds.items()}


def timed(run: Run, device: torch.device) -> float:
    """Seconds: of the processor on a CPU, of the wall until the device is done elsewhere."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronize(device)
    started = clock()
    run()
    synchronize(device)
    return clock() - started


def peak_and_held_mb(form: Form) -> tuple[float, float]:
    """Most bytes in tensors at once during a run, and before it, what ``prepare`` made included; 1 MB = 10^6 bytes."""
    with PeakTensorBytes(form.given) as memory:
        run = form.prepare()
        memory.peak = held = memory.current
        run()
    return memory.peak / 1e6, held / 1e6


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
