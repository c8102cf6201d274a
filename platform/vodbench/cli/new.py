"""``vodbench new``: a package of your own, to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from vodbench.cli.shared import console, example

if TYPE_CHECKING:
    from vodbench.scaffold.package import Template

app = typer.Typer(
    help="Write a package of your own with a method or a data set that works.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    epilog="Example:\n\n`vodbench new method my-detector`",
)

Name = Annotated[str, typer.Argument(help="Its name: small letters and digits, words joined by '-'.")]
Folder = Annotated[str | None, typer.Option(help="Folder of the package; vodbench-NAME when left out.")]


@app.callback()
def root() -> None:
    """Write a package of your own with a method or a data set that works."""


@app.command(epilog=example("vodbench new method my-detector"))
def method(name: Name, folder: Folder = None) -> None:
    """Write a detector that trains, streams and is swept, with its test: make it your own from there."""
    _write("method", name, folder)


@app.command(epilog=example("vodbench new dataset my-videos"))
def dataset(name: Name, folder: Folder = None) -> None:
    """Write a reader of folders of JPEG files with a table of boxes, with its test: make it your own from there."""
    _write("dataset", name, folder)


def _write(template: Template, name: str, folder: str | None) -> None:
    from vodbench.scaffold import write_package

    written = write_package(template, name, folder)
    console.print(f"written: {escape(written.folder)}  ({', '.join(written.files)})")
    console.print(f"next: pip install --editable {escape(written.folder)}   pytest {escape(written.folder)}")
    console.print(f"      then vodbench {template}s lists '{name}'; make {written.module} your own")
    typer.echo(written.folder)
