"""Repeating passes until enough of them were undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vodbench.spec import SnippetInfo
from vodbench.timing.contention import MAX_PRESSURE, MIN_CPU_SHARE, PressureWatch, gpu_neighbours
from vodbench.timing.passes import Pass

PATIENCE = 3  # rounds tried for each one wanted


@dataclass(frozen=True, slots=True)
class Rounds:
    """Passes to report, whether they can be trusted, and how many rounds were tried for them."""

    passes: list[Pass]
    tried: int
    contended: bool
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Round:
    """Every snippet once, with what disturbed it. ``disturbances`` is empty for a round that counts."""

    passes: list[Pass]
    disturbances: list[str]
    cpu_share: float | None


def measure_rounds(
    one_pass: Callable[[SnippetInfo], Pass],
    snippets: Sequence[SnippetInfo],
    *,
    repeats: int,
    device: torch.device,
) -> Rounds:
    """Rounds over the snippets until ``repeats`` of them were undisturbed, or three times as many were tried.

    Then the least disturbed ones are kept and marked contended.
    """
    done: list[_Round] = []
    notes = _blind_spots(device)
    while len(_clean(done)) < repeats and len(done) < PATIENCE * repeats:
        done.append(_round(one_pass, snippets, device))
    contended = len(_clean(done)) < repeats
    kept = _clean(done)
    if contended:
        kept = sorted(done, key=lambda r: (len(r.disturbances), -(r.cpu_share or 0.0)))[:repeats]
        reasons = next(r.disturbances for r in reversed(done) if r.disturbances)
        notes.insert(0, f"contended: {len(_clean(done))} of {len(done)} rounds were undisturbed ({', '.join(reasons)})")
    elif len(done) > repeats:
        notes.append(f"{len(done) - repeats} disturbed rounds were repeated")
    return Rounds([p for r in kept for p in r.passes], len(done), contended, notes)


def _clean(rounds: Sequence[_Round]) -> list[_Round]:
    return [r for r in rounds if not r.disturbances]


def _round(
    one_pass: Callable[[SnippetInfo], Pass],
    snippets: Sequence[SnippetInfo],
    device: torch.device,
) -> _Round:
    pressure = PressureWatch()
    passes = [one_pass(snippet) for snippet in snippets]
    # An accelerator's passes wait for it, and how (spinning or asleep) is the driver's choice: no CPU share there.
    shares = [p.cpu_share for p in passes if p.cpu_share is not None] if device.type == "cpu" else []
    share = min(shares, default=None)
    disturbances = []
    if share is not None and share < MIN_CPU_SHARE:
        disturbances.append(f"the CPU was ours for {share:.0%} of a pass")
    stalled = pressure.share()
    if stalled is not None and stalled >= MAX_PRESSURE:
        disturbances.append(f"tasks waited for a CPU {stalled:.0%} of the time")
    if device.type == "cuda" and (others := gpu_neighbours(device)):
        disturbances.append(f"{others} other processes on the GPU")
    return _Round(passes, disturbances, share)


def _blind_spots(device: torch.device) -> list[str]:
    """What cannot be watched here."""
    notes = []
    if PressureWatch().share() is None:
        notes.append("no pressure stall information here: other work was not watched by it")
    if device.type == "cuda" and gpu_neighbours(device) is None:
        notes.append("nvidia-smi cannot be asked: other processes on the GPU were not watched")
    if device.type == "mps":
        notes.append("other processes on the GPU were not watched")
    return notes
