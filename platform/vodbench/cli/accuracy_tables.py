"""The tables of ``vodbench evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from vodbench.evaluation import Difference
    from vodbench.records import Accuracy


def print_accuracy(accuracy: Accuracy, *, with_interval: bool) -> None:
    """mAP, and AP by class, motion and deterioration as far as they are known."""
    output = Console(highlight=False)
    interval = f"   95% interval {accuracy.low:.3f} to {accuracy.high:.3f}" if with_interval else ""
    at_half = "" if accuracy.map50 is None else f"   (IoU 0.5:0.95; AP50 {accuracy.map50:.3f})"
    output.print(f"[bold]mAP {accuracy.map:.3f}[/]{interval}{at_half}")
    output.print(f"{accuracy.protocol}, {accuracy.num_snippets} snippets, {accuracy.num_frames} frames")
    seldom = {stage: share for stage, share in accuracy.stage_share.items() if share < 1}
    if seldom:
        output.print("not on every frame: " + ", ".join(f"{stage} {share:.0%}" for stage, share in seldom.items()))
    for title, values in (
        ("class", accuracy.per_class),
        ("motion", accuracy.motion),
        ("frames with", accuracy.deteriorations),
    ):
        if values:
            table = Table(title, "AP" if title == "class" else "mAP")
            for name, value in values.items():
                table.add_row(escape(name), "-" if value is None else f"{value:.3f}")
            output.print(table)


def print_differences(differences: Mapping[str, Difference], other: str) -> None:
    """Paired differences to the detections in the file ``other``."""
    output = Console(highlight=False)
    table = Table("frames", "mAP difference", "95% interval (paired)", "")
    names = {"all": "all", "any": "deteriorated", "none": "not deteriorated"}
    for name, d in differences.items():
        table.add_row(names[name], f"{d.mean:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}", "certain" if d.certain else "")
    output.print(f"compared with {escape(other)}")
    output.print(table)
