"""What a running sweep shows.

On a terminal a live view: all trials on one bar with the time left, a bar for each thing that is being done, the front
so far, and what failed and why. Elsewhere (a log file, a pod), and with ``--quiet``, only a line for each trial that
ended, since a picture that is drawn again and again makes a log unreadable.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from vodbench.front.pareto import pareto_front
from vodbench.records import TrialRecord
from vodbench.tracking.content import run_name

# What fits on the smallest usual terminal (24 lines) below the lines of the trials that ended.
_FRONT_ROWS = 6
_FAILURES = 3
_SECONDS_A_DRAWING = 0.5


class SweepProgress:
    """Told of everything that happens in a sweep; lines of ended trials scroll above the view."""

    def __init__(
        self,
        console: Console,
        total: int | None,
        done: int = 0,
        *,
        known: Iterable[TrialRecord] = (),
        quiet: bool = False,
    ) -> None:
        self._console = console
        live = console.is_terminal and not quiet
        self._view: _View = _LiveView(console, total, done, list(known)) if live else _NoView()
        self._lines: list[str] = []
        self._printed = float("-inf")

    def __enter__(self) -> SweepProgress:
        self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._print()
        self._view.stop()

    def doing(self, trial_id: str, name: str, what: str, done: int, total: int) -> None:
        """The running trial ``name`` reports how far it is."""
        self._view.doing(trial_id, f"{name}: {what}", done, total)

    def ended(self, trial_id: str, records: list[TrialRecord]) -> None:
        self._view.ended(trial_id, records)
        self._lines += map(trial_line, records)
        self.print_when_due()

    def print_when_due(self) -> None:
        """To be called every now and then: lines of trials that end within moments are printed together."""
        if self._lines and time.monotonic() - self._printed >= _SECONDS_A_DRAWING:
            self._print()

    def warn(self, message: str) -> None:
        self._console.print(f"[yellow]warning:[/] {escape(message)}")

    def _print(self) -> None:
        if self._lines:
            self._console.print("\n".join(self._lines), highlight=False)  # they say themselves what has a colour
            self._lines.clear()
            self._printed = time.monotonic()


def trial_line(record: TrialRecord) -> str:
    """``rdn T=2 K=12 r=20   mAP 0.712 [0.660, 0.751]   12.3 ms`` as markup, or why it has no figures."""
    name = escape(f"{run_name(record):<34}")
    if record.accuracy is None or record.runtime is None:
        colour = "red" if record.status == "failed" else "yellow"
        return f"  {name} [{colour}]{record.status}[/] {escape(record.reason or '')}"
    accuracy, runtime = record.accuracy, record.runtime
    interval = escape(f"[{accuracy.low:.3f}, {accuracy.high:.3f}]")
    busy = "  [yellow]device was busy[/]" if runtime.contended else ""
    return f"  {name} mAP [bold cyan]{accuracy.map:.3f}[/] {interval}  [bold cyan]{runtime.mean_ms:8.1f}[/] ms{busy}"


# ---- views --------------------------------------------------------------------------------------------------


class _View(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...

    def doing(self, trial_id: str, description: str, done: int, total: int) -> None: ...

    def ended(self, trial_id: str, records: list[TrialRecord]) -> None: ...


class _NoView:
    def start(self) -> None:
        """Nothing is drawn."""

    def stop(self) -> None:
        """Nothing is drawn."""

    def doing(self, trial_id: str, description: str, done: int, total: int) -> None:
        """Nothing is drawn."""

    def ended(self, trial_id: str, records: list[TrialRecord]) -> None:
        """Nothing is drawn."""


class _LiveView:
    """Redrawn in place. The front stays on the screen when the sweep ends, its bars do not."""

    def __init__(self, console: Console, total: int | None, done: int, known: list[TrialRecord]) -> None:
        self._trials = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._overall = self._trials.add_task("trials", total=total, completed=done)
        # What is done has a name of any length: it gives way, the figures do not.
        self._steps = Progress(
            TextColumn("  {task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._running: dict[str, tuple[str, TaskID]] = {}
        self._records = known
        self._live = Live(
            get_renderable=self._drawn, console=console, refresh_per_second=1 / _SECONDS_A_DRAWING, transient=True
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def doing(self, trial_id: str, description: str, done: int, total: int) -> None:
        before = self._running.get(trial_id)
        if before is None or before[0] != description:
            self._forget(trial_id)
            self._running[trial_id] = description, self._steps.add_task(escape(description), total=total)
        self._steps.update(self._running[trial_id][1], completed=done, total=total)

    def ended(self, trial_id: str, records: list[TrialRecord]) -> None:
        self._forget(trial_id)
        self._records += records
        self._trials.advance(self._overall, len(records))

    def _forget(self, trial_id: str) -> None:
        if trial_id in self._running:
            self._steps.remove_task(self._running.pop(trial_id)[1])

    def _drawn(self) -> RenderableType:
        parts: list[RenderableType] = [self._trials, self._steps]
        if front := self._front():
            parts.append(_front_table(front))
        return Group(*parts, *self._failures())

    def _front(self) -> list[TrialRecord]:
        return [record for record, on_front in zip(self._records, pareto_front(self._records), strict=True) if on_front]

    def _failures(self) -> list[str]:
        failed = [record for record in self._records if record.status == "failed"]
        if not failed:
            return []
        lines = [f"[red]{len(failed)} failed[/], last:"]
        return lines + [f"  {escape(run_name(r))}: {escape(r.reason or 'no reason')}" for r in failed[-_FAILURES:]]


def _front_table(front: list[TrialRecord]) -> Table:
    """The front so far by falling accuracy: its most accurate points, where there are many."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"front so far ({len(front)} trials)", no_wrap=True, overflow="ellipsis")
    for name in ("mAP", "ms a frame"):
        table.add_column(name, justify="right")
    best = sorted(front, key=lambda r: -(r.accuracy.map if r.accuracy else 0.0))
    for record in best[:_FRONT_ROWS]:
        assert record.accuracy is not None
        assert record.runtime is not None
        busy = "*" if record.runtime.contended else ""
        table.add_row(escape(run_name(record)), f"{record.accuracy.map:.3f}", f"{record.runtime.mean_ms:.1f}{busy}")
    return table
