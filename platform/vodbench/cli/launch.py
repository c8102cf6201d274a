"""``vodbench launch``: a study onto a cluster, followed and stopped from here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from vodbench.cli.shared import console, example, parse_settings, revision
from vodbench.errors import UserError
from vodbench.launch.manifests import (
    STUDY_FILE,
    documents,
    job_name,
    study_text,
    sweep_command,
    to_yaml,
)
from vodbench.launch.preflight import check_study
from vodbench.launch.settings import Cluster, load_cluster, load_place
from vodbench.launch.sizes import Sizes, sizes_of
from vodbench.launch.state import Launched, Phase, Say
from vodbench.studies import Study, load_study

if TYPE_CHECKING:
    from vodbench.launch.api import Kubernetes
    from vodbench.launch.on_ray import RayJobs

EPILOG = example(
    "vodbench launch rdn-table4 --context gke --cluster k8s/overlays/gpu/settings.yaml --max-gpus 16",
    "vodbench launch rdn-table4 --context gke --image vodbench:0.1.0 --store s3://bucket/studies --dry-run",
    "vodbench launch demo --ray-address http://localhost:8265 --store s3://bucket/studies",
    "vodbench launch logs rdn-table4 --context gke",
)


class LaunchCommands(TyperGroup):
    """``launch STUDY`` beside ``launch status``: a first word that is no command is a study."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["study", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(cls=LaunchCommands, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")

ContextOption = Annotated[
    str | None, typer.Option(help="Context of the kubeconfig; see 'kubectl config get-contexts'.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Dashboard of a standing Ray cluster, http://HOST:8265, instead; RAY_AUTH_TOKEN is its token."),
]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of the sweeps.")]
StudyArgument = Annotated[str, typer.Argument(help="A shipped study (see 'vodbench studies') or a .yaml file.")]


@app.callback(epilog=EPILOG)
def root() -> None:
    """Run a study on a cluster: `vodbench launch STUDY --context CTX`, or `--ray-address URL`."""


@app.command("study", epilog=EPILOG)
def study_command(
    study: StudyArgument,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    cluster: Annotated[
        str | None, typer.Option(help="File with settings, e.g. k8s/overlays/gpu/settings.yaml.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image of the pods, with a fixed tag or digest.")] = None,
    store: Annotated[str | None, typer.Option(help="URL below which the study gets its folder.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow server, as pods reach it.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace; vodbench when left out.")] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU type: the value of the nodes' label nvidia.com/gpu.product.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="LocalQueue of Kueue that the sweep waits in.")] = None,
    max_gpus: Annotated[
        int | None, typer.Option(min=1, help="At most so many GPUs; as many trials at once as fit.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data root as pods reach it; replaces the study's.")] = None,
    scale: Annotated[str | None, typer.Option(help="Scale of the study, e.g. small.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Replace a key of the study.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would be submitted, and submit nothing.")] = False,
    check_image: Annotated[bool, typer.Option(help="Have the image check the study in a pod first.")] = True,
    follow: Annotated[bool, typer.Option(help="Stay and show the sweep's log.")] = True,
) -> None:
    """Launch a study, or continue it where an earlier launch ended."""
    overrides = parse_settings(set_ or [])
    if data is not None:
        overrides["data.root"] = data
    chosen = load_study(study, overrides, scale)
    given = {"image": image, "store": store, "tracking": tracking, "namespace": namespace, "queue": queue}
    changes = {name: value for name, value in {**given, "gpu.type": gpu}.items() if value is not None}
    if ray_address is not None:
        _launch_on_ray(ray_address, chosen, cluster, changes, max_gpus, follow=follow)
        return
    check_study(chosen)
    settings = load_cluster(cluster, changes)
    sizes = sizes_of(chosen, settings, max_gpus)
    if dry_run:
        typer.echo(to_yaml(documents(chosen, settings, sizes)), nl=False)
        return
    _launch_on_kubernetes(context, chosen, settings, sizes, follow=follow, check_image=check_image)


@app.command("status", epilog=example("vodbench launch status --context gke"))
def status_command(
    study: Annotated[str | None, typer.Argument(help="One study; all when left out.")] = None,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    namespace: NamespaceOption = "vodbench",
) -> None:
    """How launched sweeps are."""
    place = _place(context, ray_address, namespace)
    found = place.sweeps() if study is None else [_one(place, study)]
    for launched in found:
        typer.echo(launched.line())
    if not found:
        console.print("no sweep is launched there")


@app.command("logs", epilog=example("vodbench launch logs rdn-table4 --context gke"))
def logs_command(
    study: StudyArgument,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    namespace: NamespaceOption = "vodbench",
) -> None:
    """Show a sweep's log until it ends."""
    place = _place(context, ray_address, namespace)
    _one(place, study)
    _follow(place, _name(study))


@app.command("stop", epilog=example("vodbench launch stop rdn-table4 --context gke"))
def stop_command(
    study: StudyArgument,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    namespace: NamespaceOption = "vodbench",
) -> None:
    """End a sweep. What it has finished is kept; launching it again continues it."""
    _place(context, ray_address, namespace).stop(_name(study))
    console.print(f"{_name(study)} is stopped; launch it again to continue")


@app.command("check", hidden=True, epilog=example("vodbench launch check study.yaml --out s3://bucket/studies/mine"))
def check_command(
    study: StudyArgument,
    out: Annotated[str, typer.Option(help="The study's folder.")],
    tracking: Annotated[str, typer.Option(help="MLflow server.")],
) -> None:
    """Inside the image: can this study run here? A launch asks it in a pod."""
    from vodbench.launch.inside import check_here

    check_here(load_study(study), out, tracking)
    typer.echo(f"revision {revision()} can run the study")


class Place(Protocol):
    """Where sweeps are launched: a Kubernetes namespace, or a standing Ray cluster."""

    def sweeps(self) -> list[Launched]: ...
    def status(self, name: str) -> Launched | None: ...
    def stop(self, name: str) -> None: ...
    def follow(self, name: str, say: Say, write: Say) -> Launched: ...


@dataclass(frozen=True)
class Namespace:
    """The RayJobs of a namespace as a ``Place``."""

    api: Kubernetes

    def sweeps(self) -> list[Launched]:
        from vodbench.launch import on_kubernetes

        return on_kubernetes.sweeps(self.api)

    def status(self, name: str) -> Launched | None:
        from vodbench.launch import on_kubernetes

        return on_kubernetes.status(self.api, name)

    def stop(self, name: str) -> None:
        from vodbench.launch import on_kubernetes

        on_kubernetes.stop(self.api, name)

    def follow(self, name: str, say: Say, write: Say) -> Launched:
        from vodbench.launch import on_kubernetes

        return on_kubernetes.follow(self.api, name, say, write)


def _place(context: str | None, ray_address: str | None, namespace: str) -> Place:
    if ray_address is not None:
        return _ray(ray_address)
    from vodbench.launch.api import Kubernetes

    return Namespace(Kubernetes(context, namespace))


def _ray(address: str) -> RayJobs:
    from vodbench.launch.on_ray import RayJobs

    return RayJobs(address)


def _launch_on_kubernetes(
    context: str | None, study: Study, cluster: Cluster, sizes: Sizes, *, follow: bool, check_image: bool
) -> None:
    from vodbench.launch import on_kubernetes
    from vodbench.launch.api import Kubernetes

    api = Kubernetes(context, cluster.namespace)
    console.print(_table(study, sizes))
    launched = on_kubernetes.submit(api, study, cluster, sizes, _say, check_image=check_image)
    _say(f"launched as RayJob '{launched.name}' in namespace '{cluster.namespace}'")
    if follow:
        _follow(Namespace(api), launched.name)


def _launch_on_ray(
    address: str, study: Study, cluster: str | None, changes: Mapping[str, Any], max_gpus: int | None, *, follow: bool
) -> None:
    """The cluster has the size that it has: the study's ``workers`` say how much of it is used."""
    check_study(study)
    if max_gpus is not None:
        raise UserError(
            f"--max-gpus {max_gpus} sizes a cluster of its own; a standing one has its size: give "
            f"--set workers.concurrent_trials={max(1, max_gpus // study.workers.training)}"
        )
    place = load_place(cluster, changes)
    jobs, name = _ray(address), job_name(study.name)
    command = sweep_command(place, study, STUDY_FILE)
    launched = jobs.submit(name, command, {STUDY_FILE: study_text(study)})
    _say(f"launched as job '{launched.name}' at {address}")
    if follow:
        _follow(jobs, name)


def _follow(place: Place, name: str) -> None:
    try:
        ended = place.follow(name, _say, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        _say(f"{name} goes on; 'vodbench launch logs' shows it again, 'vodbench launch stop' ends it")
        raise
    if ended.phase is not Phase.SUCCEEDED:
        _end(ended)


def _end(ended: Launched) -> NoReturn:
    _say(f"{ended.line()}; launch it again to continue where it ended")
    raise typer.Exit(1)


def _one(place: Place, study: str) -> Launched:
    found = place.status(_name(study))
    if found is None:
        raise UserError(f"no sweep of study '{study}' is launched there; see 'vodbench launch status'")
    return found


def _name(study: str) -> str:
    """Of a study's name, or of the file that it is in; a name that no study here has may be launched elsewhere."""
    if study.endswith((".yaml", ".yml")):
        return job_name(load_study(study).name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", study):
        raise UserError(f"'{study}' is no name of a study; give one as 'vodbench studies' lists them, or a .yaml file")
    return job_name(study)


def _table(study: Study, sizes: Sizes) -> Table:
    table = Table(box=None, pad_edge=False, title=escape(f"study {study.name} on this cluster"), title_justify="left")
    for name in ("what", "size", "because of"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in sizes.rows():
        table.add_row(*map(escape, row))
    return table


def _say(text: str) -> None:
    console.print(escape(text))
