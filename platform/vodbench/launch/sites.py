"""Where sweeps are launched: the same questions to a Kubernetes namespace and to a standing Ray cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vodbench.errors import UserError
from vodbench.launch import on_kubernetes
from vodbench.launch.api import Kubernetes
from vodbench.launch.manifests import job_name
from vodbench.launch.state import Launched, Say
from vodbench.studies import load_study

if TYPE_CHECKING:
    from vodbench.launch.on_ray import RayJobs


class Site(Protocol):
    """Sweeps by the names of their jobs (``job_name``)."""

    def sweeps(self) -> list[Launched]: ...
    def status(self, name: str) -> Launched | None: ...
    def stop(self, name: str) -> None: ...
    def follow(self, name: str, say: Say, write: Say) -> Launched: ...


@dataclass(frozen=True)
class Namespace:
    """The RayJobs of a namespace."""

    api: Kubernetes

    def sweeps(self) -> list[Launched]:
        return on_kubernetes.sweeps(self.api)

    def status(self, name: str) -> Launched | None:
        return on_kubernetes.status(self.api, name)

    def stop(self, name: str) -> None:
        on_kubernetes.stop(self.api, name)

    def follow(self, name: str, say: Say, write: Say) -> Launched:
        return on_kubernetes.follow(self.api, name, say, write)


def site_of(context: str | None, ray_address: str | None, namespace: str) -> Site:
    """``UserError`` where both are named, or neither can be reached."""
    check_one(context, ray_address)
    return Namespace(Kubernetes(context, namespace)) if ray_address is None else standing(ray_address)


def check_one(context: str | None, ray_address: str | None) -> None:
    if context is not None and ray_address is not None:
        raise UserError(
            "--context and --ray-address are both given; a sweep has its own cluster on Kubernetes, or runs on a "
            "standing one: give one of them"
        )


def standing(address: str) -> RayJobs:
    """The Ray cluster at that address; Ray is imported here, which takes a second."""
    from vodbench.launch.on_ray import RayJobs

    return RayJobs(address)


def name_of(study: str) -> str:
    """The job of a study's name, or of the file that it is in; a study that nobody has here may be launched there."""
    if study.endswith((".yaml", ".yml")):
        return job_name(load_study(study).name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", study):
        raise UserError(f"'{study}' is no name of a study; give one as 'vodbench studies' lists them, or a .yaml file")
    return job_name(study)


def launched_there(site: Site, study: str) -> Launched:
    """``UserError`` where that study is not."""
    found = site.status(name_of(study))
    if found is None:
        raise UserError(f"no sweep of study '{study}' is launched there; see 'vodbench launch status'")
    return found
