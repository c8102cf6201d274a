"""``vodbench evaluate``: how good stored detections are, how certain that is, and where it comes from."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vodbench.cli import shared
from vodbench.cli.accuracy_tables import print_accuracy, print_differences
from vodbench.errors import UserError

if TYPE_CHECKING:
    from vodbench.data_source import DataSource
    from vodbench.detections import DetectionSet
    from vodbench.evaluation import Difference, TruthSet
    from vodbench.records import Accuracy
    from vodbench.spec import Bools

EPILOG = shared.example(
    "vodbench evaluate runs/study/trials/0f3a/detections.parquet --data data/generated --split val",
    "vodbench evaluate --run runs/rdn --data data/generated --split val --set T=3 --out detections.parquet",
    "vodbench evaluate rdn.parquet --compare single.parquet --data data/generated",
    "vodbench evaluate --coco-gt annotations.json --coco-dt results.json --protocol ilsvrc --json --bootstrap 1000",
)

DEFAULT_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to score, whatever is scored."""

    protocol: str
    bootstrap: int
    seed: int
    json: bool


def command(
    detections: Annotated[str | None, typer.Argument(help="Stored detections (Parquet) of --data.")] = None,
    run: Annotated[str | None, typer.Option(help="Instead: detect first, with this run's weights and knobs.")] = None,
    data: Annotated[str | None, typer.Option(help="Data root or URL, with the ground truth.")] = None,
    split: Annotated[str, typer.Option(help="Split of --data.")] = "val",
    compare: Annotated[str | None, typer.Option(help="Other detections of the same frames: the difference.")] = None,
    out: Annotated[str | None, typer.Option(help="Where --run keeps its detections.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that detect (--run).")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change an inference knob of --run.")] = None,
    device: Annotated[str, typer.Option(help="Where --run computes: auto, cpu, cuda, ...")] = "auto",
    coco_gt: Annotated[str | None, typer.Option(help="Instead of --data: COCO(-VID) annotations.")] = None,
    coco_dt: Annotated[str | None, typer.Option(help="Instead of detections: a COCO result list.")] = None,
    protocol: Annotated[str, typer.Option(help="ilsvrc, voc or coco.")] = "ilsvrc",
    bootstrap: Annotated[
        int | None,
        typer.Option(min=0, help="Resamples of snippets for the 95% interval. [default: 1000; with --coco-gt 0]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Score detections: mAP with its interval, per class, per motion, per deterioration."""
    from vodbench.evaluation.protocols import protocol as protocol_named

    protocol_named(protocol)
    coco = coco_gt is not None or coco_dt is not None
    resamples = bootstrap if bootstrap is not None else 0 if coco else DEFAULT_RESAMPLES
    settings = Settings(protocol=protocol, bootstrap=resamples, seed=seed, json=json)
    if coco:
        if coco_gt is None or coco_dt is None or any(x is not None for x in (detections, run, data, compare)):
            raise UserError("--coco-gt and --coco-dt go together, and without DETECTIONS, --run, --data and --compare")
        return _coco(coco_gt, coco_dt, settings)
    if data is None or (detections is None) == (run is None):
        raise UserError(
            "give DETECTIONS and --data ROOT, or --run RUN and --data ROOT, or --coco-gt GT.json and --coco-dt DT.json"
        )
    if run is None and (out is not None or set_ or workers != 1 or device != "auto"):
        raise UserError(
            "--out, --set, --workers and --device belong to --run; stored detections are scored as they are"
        )
    return _native(detections, compare, _Detect(run, data, split, out, workers, set_ or [], device), settings)


# ---- COCO files ---------------------------------------------------------------------------------------------


def _coco(truth_url: str, results_url: str, settings: Settings) -> None:
    from vodbench.evaluation import evaluate
    from vodbench.evaluation.coco import read_coco_results, read_coco_truth

    shared.announce(f"evaluate {results_url} ({settings.protocol})", seed=settings.seed)
    coco = read_coco_truth(truth_url)
    found = read_coco_results(results_url, coco)
    # By id in the output: category names need not be unique.
    named = dataclasses.replace(
        coco.truth, classes=tuple(dataclasses.replace(c, name=c.id) for c in coco.truth.classes)
    )
    accuracy = evaluate(named, found, settings.protocol, settings.bootstrap, settings.seed)
    if settings.json:
        return shared.print_json(figures(accuracy, settings))
    titles = {c.id: f"{c.name} ({c.id})" for c in coco.truth.classes}
    per_class = {titles[name]: value for name, value in accuracy.per_class.items()}
    return print_accuracy(dataclasses.replace(accuracy, per_class=per_class), with_interval=settings.bootstrap > 0)


def figures(accuracy: Accuracy, settings: Settings) -> dict[str, Any]:
    """The JSON object. ``map`` of "coco" is the mean over IoU 0.5:0.95, as pycocotools' first line."""
    values: dict[str, Any] = {
        "protocol": accuracy.protocol,
        "map": accuracy.map,
        "per_class": accuracy.per_class,
        "num_snippets": accuracy.num_snippets,
        "num_frames": accuracy.num_frames,
    }
    if accuracy.map50 is not None:
        values |= {"map50": accuracy.map50, "map5095": accuracy.map}
    if accuracy.motion:
        values["motion"] = accuracy.motion
    if accuracy.deteriorations:
        values["deteriorations"] = accuracy.deteriorations
    if accuracy.stage_share:
        values["stage_share"] = accuracy.stage_share
    if settings.bootstrap:
        values |= {"low": accuracy.low, "high": accuracy.high, "interval": [accuracy.low, accuracy.high]}
        values |= {"bootstrap": settings.bootstrap, "seed": settings.seed}
    return values


# ---- detections of a data set -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Detect:
    """What ``--run`` needs to detect, and the data either way."""

    run: str | None
    data: str
    split: str
    out: str | None
    workers: int
    settings: Sequence[str]
    device: str


def _native(stored: str | None, other: str | None, asked: _Detect, settings: Settings) -> None:
    from vodbench.data_source import DataSource
    from vodbench.detections import read_detections
    from vodbench.evaluation import compare, evaluate, truth_set

    found = None if stored is None else read_detections(stored)
    rival = None if other is None else read_detections(other)
    source = DataSource(root=asked.data)
    dataset = source.open()
    dataset.snippets(asked.split)
    what = f"evaluate {stored or asked.run} on {asked.split} ({settings.protocol})"
    if found is not None:
        shared.announce(what, config=found.provenance, seed=settings.seed, data=dataset.fingerprint)
    else:
        found = _detected(what, asked, source, dataset.fingerprint, settings)
    with shared.console.status("reading the ground truth"):
        truth = truth_set(dataset, asked.split)
    with shared.console.status("scoring"):
        accuracy = evaluate(truth, found, settings.protocol, settings.bootstrap, settings.seed)
        differences = _differences(compare, truth, found, rival, settings) if rival else {}
    if settings.json:
        extra = {"difference": {k: dataclasses.asdict(d) for k, d in differences.items()}} if rival else {}
        return shared.print_json(figures(accuracy, settings) | extra)
    print_accuracy(accuracy, with_interval=settings.bootstrap > 0)
    return print_differences(differences, str(other)) if rival else None


def _detected(what: str, asked: _Detect, source: DataSource, data_fingerprint: str, settings: Settings) -> DetectionSet:
    """Detect the split with ``--run``; kept at ``--out``, or in a folder that goes away."""
    import tempfile

    from vodbench.checkpoints import resolve_run
    from vodbench.device import describe_device, pick_device
    from vodbench.storage import make_folder_of
    from vodbench.streaming import detect_split

    checkpoint, config = resolve_run(str(asked.run))
    config = config.replace(**shared.parse_settings(asked.settings))
    place = describe_device(pick_device(asked.device))
    if asked.out is not None:
        make_folder_of(asked.out)
    shared.announce(what, config=config.to_mapping(), seed=settings.seed, device=place, data=data_fingerprint)
    with tempfile.TemporaryDirectory() as folder, shared.progress() as bar:
        task = bar.add_task("frames", total=None)
        return detect_split(
            weights_url(str(asked.run), checkpoint.fingerprint),
            config,
            source,
            asked.split,
            posixpath.join(folder, "detections.parquet") if asked.out is None else asked.out,
            workers=asked.workers,
            device=asked.device,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def weights_url(run: str, fingerprint: str) -> str:
    """The checkpoint file that ``resolve_run(run)`` took: the training's own, the trial's study's, or ``run``."""
    from vodbench.checkpoints import checkpoint_url, study_of
    from vodbench.storage import exists

    run = run.rstrip("/") or run
    stores = [checkpoint_url(folder, fingerprint) for folder in (run, study_of(run))]
    return next((url for url in stores if exists(url)), run)


def _differences(
    compare: Any, truth: TruthSet, found: DetectionSet, rival: DetectionSet, settings: Settings
) -> dict[str, Difference]:
    """On all frames, and on the deteriorated and the other ones where that is known."""
    arguments = {"protocol": settings.protocol, "bootstrap": settings.bootstrap, "seed": settings.seed}
    chosen: dict[str, Bools | None] = {"all": None}
    if truth.deteriorations:
        chosen |= {name: truth.frames_with(name) for name in ("any", "none")}
    objects = truth.frame_of_box[~truth.crowd]
    return {
        name: compare(truth, found, rival, frames=frames, **arguments)
        for name, frames in chosen.items()
        if frames is None or frames[objects].any()
    }
