"""``vodbench launch``: a study onto a cluster, followed and stopped from here."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vodbench.cli.launching import Asked, follow, launch_on_kubernetes, launch_on_ray, say
from vodbench.cli.shared import console, example, parse_settings, revision
from vodbench.launch.sites import check_one, launched_there, name_of, site_of
from vodbench.studies import load_study

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
    stay: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay and show the sweep's log.")] = True,
) -> None:
    """Launch a study, or continue it where an earlier launch ended."""
    check_one(context, ray_address)
    overrides = parse_settings(set_ or []) | ({} if data is None else {"data.root": data})
    given = {"image": image, "store": store, "tracking": tracking, "namespace": namespace, "queue": queue}
    asked = Asked(
        study=load_study(study, overrides, scale),
        cluster=cluster,
        changes={name: value for name, value in {**given, "gpu.type": gpu}.items() if value is not None},
        max_gpus=max_gpus,
        dry_run=dry_run,
        follow=stay,
    )
    if ray_address is not None:
        launch_on_ray(asked, ray_address)
    else:
        launch_on_kubernetes(asked, context, check_image=check_image)


@app.command("status", epilog=example("vodbench launch status --context gke"))
def status_command(
    study: Annotated[str | None, typer.Argument(help="One study; all when left out.")] = None,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    namespace: NamespaceOption = "vodbench",
) -> None:
    """How launched sweeps are."""
    site = site_of(context, ray_address, namespace)
    found = site.sweeps() if study is None else [launched_there(site, study)]
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
    site = site_of(context, ray_address, namespace)
    launched_there(site, study)
    follow(site, name_of(study))


@app.command("stop", epilog=example("vodbench launch stop rdn-table4 --context gke"))
def stop_command(
    study: StudyArgument,
    context: ContextOption = None,
    ray_address: AddressOption = None,
    namespace: NamespaceOption = "vodbench",
) -> None:
    """End a sweep. What it has finished is kept; launching it again continues it."""
    name = name_of(study)
    site_of(context, ray_address, namespace).stop(name)
    say(f"{name} is stopped; launch it again to continue")


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
