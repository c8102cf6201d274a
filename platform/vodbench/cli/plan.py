"""``vodbench plan``: what a study will take, before it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vodbench.cli.shared import announce, console, example, parse_settings, print_json
from vodbench.errors import UserError
from vodbench.studies import Study, load_study, matching_studies

if TYPE_CHECKING:
    from vodbench.plan.costs import Rates
    from vodbench.plan.data import Video

EPILOG = example(
    "vodbench plan rdn-table4 --gpus 8,64,512 --rates docs/rates-counted.yaml --tflops 20 --gpu-hour-price 2.5",
    "vodbench plan 'rdn-*' --gpus 8,64 --rates docs/rates-counted.yaml --tflops 20 --markdown",
    "vodbench plan rdn-table4 --data s3://bucket/vid-shards --probe --save-rates rates.yaml",
    "vodbench plan demo --from runs/calibration --against runs/demo",
)

# Unless told otherwise, on a cluster. Llama 3's 16,384 GPUs lost a node of 8 every 6,300 hours of each (54 days, 419
# interruptions; Grattafiori et al., 2024): rented machines are taken to be some times worse.
_STRAGGLE, _MTBF_HOURS = 0.1, 1000.0


def command(
    study: Annotated[
        list[str], typer.Argument(help="Shipped studies (see 'vodbench studies'), patterns of them, or .yaml files.")
    ],
    gpus: Annotated[
        str | None, typer.Option(help="How many GPUs: 8, or 8,64,512. Left out: as 'vodbench sweep' runs it here.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="Scale of the study, e.g. small.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data root, to count its frames; ImageNet VID when left out.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Replace a key of the study.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Times of a sweep that was run: its folder.")] = None,
    rates: Annotated[str | None, typer.Option(help="Times in a file, as --save-rates writes it.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Measure the times now, on this machine's device.")] = False,
    tflops: Annotated[
        float | None, typer.Option(help="Take the operations that were counted, at this sustained TFLOP/s a GPU.")
    ] = None,
    save_rates: Annotated[str | None, typer.Option(help="Write the times that were used to this file.")] = None,
    straggle: Annotated[
        float | None, typer.Option(min=0, max=2, help="Deviation of log times. [default: 0.1 with --gpus, else 0]")
    ] = None,
    mtbf_hours: Annotated[
        float | None,
        typer.Option(help="Hours between failures of a node; 0: none. [default: 1000 with --gpus, else 0]"),
    ] = None,
    repair_minutes: Annotated[float, typer.Option(min=0, help="Until a failed node is replaced.")] = 10.0,
    storage_gb_s: Annotated[float | None, typer.Option(help="What all readers get together, GB/s; no limit.")] = None,
    gpu_hour_price: Annotated[float | None, typer.Option(min=0, help="Of one GPU hour, in your currency.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of stragglers and failures.")] = 0,
    against: Annotated[str | None, typer.Option(help="Compare with this finished sweep of the study.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print one Markdown table, a row a study.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object of figures as the last line.")] = False,
) -> None:
    """Predict wall time, GPU hours, bytes and cost of a study from measured times, and say what limits it.

    Trainings that trials share are counted once, frames that they share too. With --gpus the sweep that 'vodbench
    launch --max-gpus' would start is simulated, with stragglers and failing nodes.
    """
    counts = _counts(gpus)
    overrides = parse_settings(set_ or []) | ({} if data is None else {"data.root": data})
    studies = [load_study(name, overrides, scale) for name in matching_studies(study)]
    _check(studies, _Times(from_, rates, probe, tflops), against, gpus)
    # What these import takes seconds: not for --help, nor before a typing error is found.
    from vodbench.plan.costs import save_rates as write_rates
    from vodbench.plan.data import video_of
    from vodbench.plan.forecast import Risks, forecast

    known = _known(studies, _Times(from_, rates, probe, tflops))
    if save_rates is not None:
        write_rates(known, save_rates)
    known = known if tflops is None else known.at(tflops)
    if against is not None:
        return _compare(studies[0], known, video_of(studies[0]), against, json)
    cluster = gpus is not None
    risks = Risks(
        straggle=_STRAGGLE * cluster if straggle is None else straggle,
        mtbf_hours=(_MTBF_HOURS * cluster if mtbf_hours is None else mtbf_hours) or None,
        repair_minutes=repair_minutes,
        storage_gb_s=storage_gb_s,
        seed=seed,
    )
    found = [forecast(each, known, video_of(each), risks, count) for each in studies for count in counts]
    if json:
        return print_json({"device": known.device, "plans": [one.figures(gpu_hour_price) for one in found]})
    if markdown:
        from vodbench.cli.plan_markdown import markdown as table

        return typer.echo(table(found, gpu_hour_price), nl=False)
    announce("plan", seed=seed, config={"times of": known.device, "source": known.source})
    from vodbench.cli.plan_tables import print_plans

    return print_plans(found, [video_of(each) for each in studies], gpu_hour_price)


@dataclass(frozen=True)
class _Times:
    """Where times come from."""

    run: str | None
    file: str | None
    probe: bool
    tflops: float | None


def _check(studies: list[Study], times: _Times, against: str | None, gpus: str | None) -> None:
    """What can be wrong in the arguments, before anything takes time."""
    from vodbench.studies import method_spaces

    for each in studies:
        method_spaces(each)
    if sum(map(bool, (times.run, times.file, times.probe))) != 1:
        raise UserError(
            "no times to predict from: give one of --from (folder of a sweep that was run), --rates (a file) and "
            "--probe (measure here)"
        )
    if times.tflops is not None and not 0 < times.tflops < float("inf"):
        raise UserError(f"--tflops {times.tflops:g} is not accepted: a number above 0")
    if against is not None and (len(studies) > 1 or gpus is not None):
        raise UserError("--against compares one study with one sweep on this machine; give one STUDY and no --gpus")


def _known(studies: list[Study], times: _Times) -> Rates:
    from vodbench.plan.costs import load_rates
    from vodbench.plan.from_run import rates_from

    if times.run:
        return rates_from(times.run)
    return load_rates(times.file) if times.file else _probed(studies, timed=times.tflops is None)


def _counts(gpus: str | None) -> list[int | None]:
    """``"8,64"`` as numbers; ``UserError`` for anything else."""
    if gpus is None:
        return [None]
    parts = gpus.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--gpus {gpus!r} is not accepted: whole numbers above 0, e.g. 8 or 8,64,512")
    return [int(part) for part in parts]


def _probed(studies: list[Study], *, timed: bool) -> Rates:
    from vodbench.plan.probe import probed

    with console.status("measuring") as status:
        return probed(studies, status.update, timed=timed)


def _compare(study: Study, rates: Rates, video: Video, run: str, json: bool) -> None:
    from vodbench.cli.plan_tables import print_parts
    from vodbench.plan.against import held_against
    from vodbench.plan.from_run import busy

    parts = held_against(study, rates, video, run)
    console.print(escape(f"times of {rates.source}"))
    console.print(escape(f"against '{run}'{busy(run)}"))
    if json:
        figures = {part.name: {"expected_s": part.expected_s, "taken_s": part.taken_s} for part in parts}
        return print_json({"parts": figures, "error": parts[-1].share})
    return print_parts(parts)
