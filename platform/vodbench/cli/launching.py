"""A study on its way to a cluster: what is shown before, what is submitted, and its log until it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from vodbench.cli.shared import console
from vodbench.errors import UserError
from vodbench.launch import on_kubernetes
from vodbench.launch.api import Kubernetes
from vodbench.launch.manifests import STUDY_FILE, documents, job_name, study_text, sweep_command, to_yaml
from vodbench.launch.preflight import check_study
from vodbench.launch.settings import load_cluster, load_place
from vodbench.launch.sites import Namespace, Site, standing
from vodbench.launch.sizes import Sizes, sizes_of
from vodbench.launch.state import Phase
from vodbench.studies import Study


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a launch was asked for. ``cluster``: the file with settings, of which ``changes`` replace some."""

    study: Study
    cluster: str | None
    changes: Mapping[str, Any]
    max_gpus: int | None
    dry_run: bool
    follow: bool


def launch_on_kubernetes(asked: Asked, context: str | None, *, check_image: bool) -> None:
    """As a RayJob with a cluster of its own."""
    check_study(asked.study)
    cluster = load_cluster(asked.cluster, asked.changes)
    sizes = sizes_of(asked.study, cluster, asked.max_gpus)
    if asked.dry_run:
        typer.echo(to_yaml(documents(asked.study, cluster, sizes)), nl=False)
        return
    api = Kubernetes(context, cluster.namespace)
    console.print(_table(asked.study, sizes))
    launched = on_kubernetes.submit(api, asked.study, cluster, sizes, say, check_image=check_image)
    say(f"launched as RayJob '{launched.name}' in namespace '{cluster.namespace}'")
    if asked.follow:
        follow(Namespace(api), launched.name)


def launch_on_ray(asked: Asked, address: str) -> None:
    """As a job. The cluster has the size that it has: the study's ``workers`` say how much of it is used."""
    study = asked.study
    check_study(study)
    _check_standing(asked)
    command = sweep_command(load_place(asked.cluster, asked.changes), study, STUDY_FILE)
    if asked.dry_run:
        typer.echo(f"# {' '.join(command)}\n# {STUDY_FILE}:\n{study_text(study)}", nl=False)
        return
    jobs, name = standing(address), job_name(study.name)
    launched = jobs.submit(name, command, {STUDY_FILE: study_text(study)})
    say(f"launched as job '{launched.name}' at {address}")
    if asked.follow:
        follow(jobs, name)


def _check_standing(asked: Asked) -> None:
    """``UserError`` for what only a cluster of the sweep's own can be told."""
    if asked.max_gpus is not None:
        at_once = max(1, asked.max_gpus // asked.study.workers.training)
        raise UserError(
            f"--max-gpus {asked.max_gpus} sizes a cluster of its own; a standing one has its size: give "
            f"--set workers.concurrent_trials={at_once}"
        )
    of_pods = [f"--{name.partition('.')[0]}" for name in asked.changes if name not in ("store", "tracking")]
    if of_pods:
        raise UserError(
            f"{', '.join(of_pods)}: a standing cluster has its pods; give --context for one of the sweep's own, or "
            "leave it out"
        )


def follow(site: Site, name: str) -> None:
    """Show the sweep's log until it ends; exit status 1 where it did not succeed."""
    try:
        ended = site.follow(name, say, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        say(f"{name} goes on; 'vodbench launch logs' shows it again, 'vodbench launch stop' ends it")
        raise
    if ended.phase is not Phase.SUCCEEDED:
        say(f"{ended.line()}; launch it again to continue where it ended")
        raise typer.Exit(1)


def say(text: str) -> None:
    console.print(escape(text))


def _table(study: Study, sizes: Sizes) -> Table:
    table = Table(box=None, pad_edge=False, title=escape(f"study {study.name} on this cluster"), title_justify="left")
    for name in ("what", "size", "because of"):
        table.add_column(name, justify="right" if name == "size" else "left")
    for row in sizes.rows():
        table.add_row(*map(escape, row))
    return table
