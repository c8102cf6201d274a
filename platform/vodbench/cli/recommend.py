"""``vodbench recommend``: the best recorded settings under a runtime budget, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from vodbench.cli.shared import example, print_json, progress
from vodbench.errors import UserError
from vodbench.storage import join
from vodbench.trials.folders import RUNS, study_folders

if TYPE_CHECKING:
    from vodbench.data_source import DataSource
    from vodbench.recommend import Advice, Limits, NoCandidate
    from vodbench.trials import StoredTrial

EPILOG = example(
    "vodbench recommend --budget-ms 30",
    "vodbench recommend --budget-ms 30 --data s3://bucket/my-shards runs/rdn-table4 'thp-*'",
    "vodbench recommend --budget-ms 30 --latency-frames 0 --json",
)
KEPT = join(RUNS, "recommend")


def command(
    budget_ms: Annotated[float, typer.Option(help="Mean runtime, milliseconds a frame.")],
    runs: Annotated[list[str] | None, typer.Argument(help=f"Folders of sweeps, or patterns; all of {RUNS}/.")] = None,
    data: Annotated[str | None, typer.Option(help="Your data, root or URL: see above.")] = None,
    split: Annotated[str, typer.Option(help="Validation split of --data.")] = "val",
    latency_frames: Annotated[
        int | None, typer.Option(min=0, help="At most so many frames until a result is final; any when left out.")
    ] = None,
    contended: Annotated[bool, typer.Option("--contended", help="Trust runtimes of a busy device too.")] = False,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="How many are judged, the most accurate ones. [default: 12; on other data 6]"),
    ] = None,
    out: Annotated[str, typer.Option(help="Where detections made on --data are kept.")] = KEPT,
    device: Annotated[str, typer.Option(help="Where they are computed: auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that detect on --data.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which recorded settings are the most accurate under a runtime budget, and how sure that is.

    Trials of other data, protocols, devices or threads are never mixed: each kind gets advice of its own. Candidates
    are compared on the same resampled snippets; "after choosing" lowers the winner by what it owes to being chosen.

    With --data, only trials made on it count. Where there are none, the candidates' checkpoints are run on its --split:
    accuracy is then of your data, and runtime as it was recorded.
    """
    from vodbench.cli.advice_tables import figures, print_advice
    from vodbench.recommend import Advice, Limits
    from vodbench.trials import stored_trials

    limits = Limits(budget_ms=budget_ms, latency_frames=latency_frames, contended=contended)
    trials = stored_trials(study_folders(runs or [f"{RUNS}/*"]))
    found = _advice(trials, limits, _Own(data, split, out, device, workers), candidates)
    reasons = [one.reason for one in found if not isinstance(one, Advice)]
    if len(reasons) == len(found):
        raise UserError("; ".join(dict.fromkeys(reasons)))
    if json:
        print_json(figures(found, limits))
        return
    for one in found:
        print_advice(one, limits)


@dataclass(frozen=True)
class _Own:
    """The user's data, and how it is detected on."""

    data: str | None
    split: str
    store: str
    device: str
    workers: int


def _advice(
    trials: Sequence[StoredTrial], limits: Limits, own: _Own, most: int | None
) -> Sequence[Advice | NoCandidate]:
    from vodbench.data_source import DataSource
    from vodbench.recommend import recommend

    if own.data is not None:
        source = DataSource(root=own.data)
        fingerprint = source.open().fingerprint
        on_it = [t for t in trials if t.conditions.data == fingerprint and t.conditions.split == own.split]
        if trials and not on_it:
            return _elsewhere(trials, limits, own, source, most or 6)
        trials = on_it
    with progress() as bar:
        task = bar.add_task("comparing", total=None)
        return recommend(
            trials,
            limits,
            most=most or 12,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _elsewhere(
    trials: Sequence[StoredTrial], limits: Limits, own: _Own, source: DataSource, most: int
) -> Sequence[Advice | NoCandidate]:
    from vodbench.device import pick_device
    from vodbench.recommend.elsewhere import Elsewhere, recommend_elsewhere
    from vodbench.storage import make_folder

    pick_device(own.device)
    source.open().snippets(own.split)
    make_folder(own.store)
    asked = Elsewhere(source=source, split=own.split, store=own.store, device=own.device, workers=own.workers)
    with progress() as bar:
        task = bar.add_task("detecting", total=None)

        def doing(which: str, done: int, total: int) -> None:
            bar.update(task, description=f"detecting with {which}", completed=done, total=total)

        return recommend_elsewhere(trials, limits, asked, most=most, on_detecting=doing)
