"""What a sweep shows: one bar over all trials, what the running ones do, and a line for each that ended."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from vodbench.progress import progress_bar
from vodbench.records import TrialRecord
from vodbench.tracking.content import run_name


class SweepProgress:
    """A live bar on ``console``; lines of finished trials scroll above it."""

    def __init__(self, console: Console, total: int | None, done: int = 0) -> None:
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("trials", total=total, completed=done)
        self._doing: dict[str, str] = {}

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def doing(self, trial_id: str, name: str, what: str, done: int, total: int) -> None:
        """The running trial ``name`` reports how far it is."""
        share = f" {done}/{total}" if total > 1 else ""
        self._doing[trial_id] = f"{name}: {what}{share}"
        self._describe()

    def ended(self, trial_id: str, records: list[TrialRecord]) -> None:
        self._doing.pop(trial_id, None)
        self._describe()
        for record in records:
            self._bar.advance(self._task)
            self._bar.console.print(trial_line(record))

    def warn(self, message: str) -> None:
        self._bar.console.print(f"[yellow]warning:[/] {escape(message)}")

    def _describe(self) -> None:
        self._bar.update(self._task, description=" | ".join(self._doing.values()) or "trials")


def trial_line(record: TrialRecord) -> str:
    """``rdn T=2 K=12 r=20   mAP 0.712 [0.660, 0.751]   12.3 ms`` as markup, or why it has no figures."""
    name = escape(f"{run_name(record):<34}")
    if record.accuracy is None or record.runtime is None:
        colour = "red" if record.status == "failed" else "yellow"
        return f"  {name} [{colour}]{record.status}[/] {escape(record.reason or '')}"
    accuracy, runtime = record.accuracy, record.runtime
    interval = escape(f"[{accuracy.low:.3f}, {accuracy.high:.3f}]")
    busy = "  [yellow]device was busy[/]" if runtime.contended else ""
    return f"  {name} mAP {accuracy.map:.3f} {interval}  {runtime.mean_ms:8.1f} ms{busy}"
