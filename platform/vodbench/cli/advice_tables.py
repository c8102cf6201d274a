"""Advice as people and scripts read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vodbench.evaluation import Difference
from vodbench.recommend import Advice, Candidate, Limits, NoCandidate

_SHOWN = 12  # candidates in the table


def print_advice(advice: Advice | NoCandidate, limits: Limits) -> None:
    """One kind of trials: what is recommended, how sure that is, and the candidates."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(advice.conditions.words())}[/]", soft_wrap=True)
    if isinstance(advice, NoCandidate):
        console.print(f"  {escape(advice.reason)}\n", soft_wrap=True)
        return
    for line in _lines(advice, limits):
        console.print(f"  {escape(line)}", soft_wrap=True)
    console.print(_table(advice))
    console.print()


def figures(found: Sequence[Advice | NoCandidate], limits: Limits) -> dict[str, Any]:
    """The JSON object; an entry of ``advice`` without ``candidates`` says why in ``reason``."""
    return {
        "budget_ms": limits.budget_ms,
        "latency_frames": limits.latency_frames,
        "contended": limits.contended,
        "advice": [_plain(one) for one in found],
    }


def _lines(advice: Advice, limits: Limits) -> Iterator[str]:
    best, c = advice.best, advice.best.configuration
    yield f"recommended under {limits.budget_ms:g} ms a frame: {best.label}"
    if advice.judged_on:
        yield f"judged on   {advice.judged_on}; runtime as recorded on other data"
    yield f"accuracy    mAP {_interval(best.map, best.low, best.high)}" + _after(advice)
    yield f"runtime     {_ms(best)}" + (", measured on a busy device" if c.contended else "")
    if best.may_miss:
        safe = advice.safe
        other = f"the best that surely keeps it: {safe.label}, mAP {safe.map:.3f}" if safe else "none surely keeps it"
        yield f"            the interval reaches above the budget, so it may miss it; {other}"
    if advice.may_keep:
        yield f"            {advice.may_keep}"
    yield "latency     " + ("the whole snippet" if c.latency_frames is None else f"{c.latency_frames} frames")
    yield f"how sure    {_sureness(advice)}"
    if len(advice.candidates) > 1:
        yield f"runner-up   {_runner_up(advice)}"
    if len(c.seeds) == 1:
        yield "seeds       one: what another training would give is in none of these intervals"
    else:
        yield f"seeds       mean of {len(c.seeds)}: " + ", ".join(f"{t.accuracy.map:.3f}" for t in c.trials)
    for note in advice.notes:
        yield f"note        {note}"
    yield f"use it      vodbench predict VIDEO --run {c.trials[0].url} --out annotated.mp4"


def _after(advice: Advice) -> str:
    if advice.after_choice is None or len(advice.candidates) == 1:
        return ""
    e = advice.after_choice
    return f"; after choosing among {len(advice.candidates)}: {_interval(e.map, e.low, e.high)}"


def _sureness(advice: Advice) -> str:
    if advice.unsure is not None:
        return f"not known: candidates could not be judged together ({advice.unsure})"
    if len(advice.candidates) == 1:
        return "it is the only candidate"
    assert advice.best.probability is not None
    rest = f"; {advice.not_judged} less accurate ones were left out" if advice.not_judged else ""
    return (
        f"the best of {len(advice.candidates)} candidates in {advice.best.probability:.0%} of the resamples of the "
        f"snippets{rest}"
    )


def _runner_up(advice: Advice) -> str:
    second = advice.candidates[1]
    line = f"{second.label}, {_ms(second)}"
    if second.behind is None:
        return f"{line}, mAP {second.map:.3f}"
    told = "" if second.behind.certain else ": not told apart by these snippets"
    return f"{line}, mAP {_behind(second.behind)}{told}"


def _ms(candidate: Candidate) -> str:
    c = candidate.configuration
    return f"{c.mean_ms:.2f} ms [{c.low_ms:.2f}, {c.high_ms:.2f}]"


def _interval(middle: float, low: float, high: float) -> str:
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def _table(advice: Advice) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("candidate", "mAP", "95%", "ms a frame", "best in", "against the best (95%)"):
        left = name in ("candidate", "95%", "against the best (95%)")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "candidate", overflow="fold")
    for candidate in advice.candidates[:_SHOWN]:
        c = candidate.configuration
        table.add_row(
            escape(candidate.label),
            f"{candidate.map:.3f}",
            escape(f"[{candidate.low:.3f}, {candidate.high:.3f}]"),
            f"{c.mean_ms:.2f}{'*' if c.contended else ''}{'?' if candidate.may_miss else ''}",
            "" if candidate.probability is None else f"{candidate.probability:.0%}",
            "" if candidate.behind is None or candidate is advice.best else escape(_behind(candidate.behind)),
        )
    hidden = len(advice.candidates) - _SHOWN
    notes = [f"and {hidden} more"] if hidden > 0 else []
    notes += ["? may miss the budget"] if any(c.may_miss for c in advice.candidates) else []
    notes += ["* measured on a busy device"] if any(c.configuration.contended for c in advice.candidates) else []
    table.caption = "; ".join(notes) or None
    return table


def _behind(d: Difference) -> str:
    """A candidate's mAP less the best one's."""
    return f"{-d.mean:+.3f} [{-d.high:+.3f}, {-d.low:+.3f}]"


def _plain(one: Advice | NoCandidate) -> dict[str, Any]:
    conditions = dataclasses.asdict(one.conditions)
    if isinstance(one, NoCandidate):
        return {"conditions": conditions, "reason": one.reason, "candidates": []}
    return {
        "conditions": conditions,
        "judged_on": one.judged_on or None,
        "recommended": one.best.label,
        "runner_up": one.candidates[1].label if len(one.candidates) > 1 else None,
        "surely_inside": one.safe.label if one.safe else None,
        "after_choice": dataclasses.asdict(one.after_choice) if one.after_choice else None,
        "unsure": one.unsure,
        "may_keep": one.may_keep,
        "not_judged": one.not_judged,
        "notes": list(one.notes),
        "candidates": [_candidate(candidate) for candidate in one.candidates],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        **candidate.configuration.figures(),
        "label": candidate.label,
        "map": candidate.map,
        "map_low": candidate.low,
        "map_high": candidate.high,
        "may_miss": candidate.may_miss,
        "latency_frames": candidate.configuration.latency_frames,
        "probability": candidate.probability,
        "behind": None if candidate.behind is None else dataclasses.asdict(candidate.behind),
    }
