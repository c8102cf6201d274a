"""``vodbench import``: weights that other projects published, as checkpoints of ours."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vodbench.cli.shared import announce, console, example, parse_settings, revision
from vodbench.errors import UserError
from vodbench.fingerprint import fingerprint
from vodbench.registry import load_object
from vodbench.spec import ClassInfo
from vodbench.storage import exists, join, make_folder, read_bytes, read_text

if TYPE_CHECKING:
    from vodbench.knobs import MethodConfig

# The platform knows no importer; it finds them the way it finds methods and data sets.
_IMPORTERS = {
    "mega": "vodbench_methods.importers.mega:import_mega",
    "mmtracking": "vodbench_methods.importers.mmtracking:import_mmtracking",
}
_VID_CLASSES = "vodbench_datasets.ilsvrc.classes:VID_CLASSES"
_PARSE_CLASSES = "vodbench_datasets.ilsvrc.classes:parse_classes"

app = typer.Typer(
    help="Turn published weights into checkpoints that evaluate, predict and sweep accept.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog=example("vodbench import mega R_101.pth --out runs/mega-r101"),
)


_Out = Annotated[str, typer.Option(help="Folder or URL to write model.pt to.")]
_Classes = Annotated[
    str | None, typer.Option(help="classes.txt with the names of the labels; ImageNet VID's 30 if left out.")
]
_Set = Annotated[list[str] | None, typer.Option("--set", help="Replace a knob: --set T=12")]


@app.command("mega", epilog=example("vodbench import mega RDN_R_101.pth --out runs/rdn-r101 --set T=12"))
def mega(
    file: Annotated[str, typer.Argument(help="A checkpoint of mega.pytorch: Faster R-CNN (base), RDN, DFF or FGFA.")],
    out: _Out,
    classes: _Classes = None,
    set_: _Set = None,
) -> None:
    """Read a checkpoint of mega.pytorch, with the conventions its weights were trained with."""
    _import("mega", file, out, classes, set_)


@app.command(
    "mmtracking", epilog=example("vodbench import mmtracking selsa_r101.pth --out runs/selsa --set test_frames=21")
)
def mmtracking(
    file: Annotated[str, typer.Argument(help="A checkpoint of mmtracking (0.x): its SELSA.")],
    out: _Out,
    classes: _Classes = None,
    set_: _Set = None,
) -> None:
    """Read a checkpoint of mmtracking, with the conventions its weights were trained with."""
    _import("mmtracking", file, out, classes, set_)


def _import(project: str, file: str, out: str, classes: str | None, changes: list[str] | None) -> None:
    from vodbench.checkpoints import FILE_NAME, Checkpoint, save_checkpoint

    target = join(out, FILE_NAME)
    if exists(target):
        raise UserError(f"'{target}' exists already; give another --out, or delete it first")
    named = load_object(_PARSE_CLASSES)(read_text(classes), classes) if classes else None
    imported = load_object(_IMPORTERS[project])(file, parse_settings(changes or []))
    config: MethodConfig = imported.config
    labels = _labels(named, imported.num_classes, imported.class_names, file)
    make_folder(out)
    announce(f"import {project}  {file} -> {out}", config={"method": imported.method, **_telling(config)})
    save_checkpoint(
        target,
        Checkpoint(
            method=imported.method,
            config=config,
            classes=labels,
            weights=imported.weights,
            fingerprint=fingerprint(
                project, hashlib.sha256(read_bytes(file)).hexdigest(), imported.method, config.training_settings()
            ),
            stage="imported",
            data_fingerprint="",
            seed=0,
            revision=revision(),
        ),
    )
    console.print(f"{len(imported.weights)} weights of {imported.method} written to {target}")


def _labels(
    named: tuple[ClassInfo, ...] | None, count: int, in_file: tuple[str, ...] | None, file: str
) -> tuple[ClassInfo, ...]:
    """The names of the labels: as given, or ImageNet VID's, which must be those in the file where it has any."""
    labels: tuple[ClassInfo, ...] = load_object(_VID_CLASSES) if named is None else named
    if len(labels) != count:
        given = "ImageNet VID has" if named is None else "--classes names"
        raise UserError(f"'{file}' scores {count} classes but {given} {len(labels)}; name all {count} with --classes")
    for number, (label, name) in enumerate(zip(labels, in_file or (), strict=False), start=1):
        if named is None and label.name != name:
            raise UserError(
                f"'{file}' names its class {number} '{name}', but ImageNet VID's is '{label.name}'; name its "
                f"{count} classes, in its order, with --classes"
            )
    return labels


def _telling(config: MethodConfig) -> dict[str, Any]:
    """The settings that differ from the method's defaults."""
    defaults = type(config)().to_mapping()
    return {name: value for name, value in config.to_mapping().items() if value != defaults[name]}
