"""What a launch has to know of a cluster: a YAML file of this model, strict like a study.

Everything has a default but ``image`` and ``store``, so that a first file is two lines long. Secrets are named here,
never held.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, TypeVar

import pydantic
from pydantic import Field, field_validator, model_validator

from vodbench.errors import UserError
from vodbench.storage import read_text
from vodbench.studies import parse_mapping
from vodbench.studies.strict import Strict

# Of an ImageNet VID frame (1280 x 720) on one core: half of 1,057 frames/s that two cores were measured to decode at
# 480p, by the share of pixels.
DECODED_FRAMES_PER_CORE = 235
DNS_LABEL = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"  # DNS-1035, which is what the names of services are held to
_MIN_RAY = (2, 52)  # token authentication


class Gpu(Strict):
    """The accelerators of worker pods.

    ``type``: the value of the node label ``node_label`` (any GPU when left out). ``per_pod``: GPUs of one pod; as many
    as one training has processes, up to 8, when left out. ``from_zero``: node pools may be empty until they are asked
    for, so that the types that nodes show are not all there are. ``frames_per_second``: what one GPU works through at
    most, which decides how many cores decode for it.
    """

    type: str | None = None
    node_label: str = "nvidia.com/gpu.product"
    resource: str = "nvidia.com/gpu"
    per_pod: int | None = Field(default=None, ge=1, le=16)
    from_zero: bool = False
    frames_per_second: int = Field(default=200, ge=1)


class Secrets(Strict):
    """Names of Secrets in the namespace.

    ``s3``: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY. ``mlflow``: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD.
    ``ray``: auth_token.
    """

    s3: str = Field(default="vodbench-s3", pattern=DNS_LABEL)
    mlflow: str = Field(default="vodbench-mlflow-client", pattern=DNS_LABEL)
    ray: str = Field(default="vodbench-ray-token", pattern=DNS_LABEL)

    def keys(self) -> dict[str, tuple[str, ...]]:
        """Secret -> the keys that pods read."""
        return {
            self.s3: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            self.mlflow: ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
            self.ray: ("auth_token",),
        }


class Place(Strict):
    """Where a sweep leaves what it finds. ``store``: URL below which each study has its folder."""

    store: str = Field(pattern=r"^[a-z0-9+]+://[^\s/]+[^\s]*$")
    tracking: str = Field(default="http://vodbench-mlflow:5000", pattern=r"^https?://[^\s/@]+[^\s@]*$")


class Cluster(Place):
    """One cluster as sweeps see it.

    ``ray_version``: that of the image. ``gpu``: null for CPU workers. ``queue``: a LocalQueue of Kueue, which then
    admits the whole sweep or lets it wait; no autoscaling then. ``memory_gib``: of one worker process (one GPU), its
    shared memory (``shm_gib``) included. ``max_hours``, ``start_minutes``: when a sweep, or its start, is given up.
    ``pull_secret``: of the image's registry. ``keep_minutes``: how long the cluster of an ended sweep stays, to be
    looked at. ``retries``: of the whole cluster.
    """

    image: str = Field(pattern=r"^[^\s:@]+(:\d+/[^\s:@]+)?(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$")
    namespace: str = Field(default="vodbench", pattern=DNS_LABEL)
    s3_endpoint: str | None = None
    ray_version: str = Field(default_factory=lambda: version("ray"), pattern=r"^\d+\.\d+\.\d+$")
    gpu: Gpu | None = Gpu()
    secrets: Secrets = Secrets()
    queue: str | None = Field(default=None, pattern=DNS_LABEL)
    priority_class: str | None = None
    pull_secret: str | None = Field(default=None, pattern=DNS_LABEL)
    head_cpus: int = Field(default=4, ge=1)
    head_memory_gib: int = Field(default=16, ge=2)
    memory_gib: int = Field(default=24, ge=2)
    shm_gib: int = Field(default=8, ge=1)
    scratch_gib: int = Field(default=50, ge=1)
    max_hours: float = Field(default=72, gt=0)
    start_minutes: float = Field(default=30, gt=0)
    keep_minutes: float = Field(default=5, ge=0)
    idle_minutes: float = Field(default=5, gt=0)
    retries: int = Field(default=2, ge=0)

    @field_validator("image")
    @classmethod
    def _pinned(cls, image: str) -> str:
        """A tag that moves would let a continued sweep run other code than it began with."""
        if image.endswith(":latest") or not re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", image.rpartition("/")[2]):
            raise ValueError(f"image '{image}' names no fixed version; give a tag other than latest, or a digest")
        return image

    @field_validator("ray_version")
    @classmethod
    def _authenticates(cls, ray: str) -> str:
        if tuple(int(part) for part in ray.split(".")[:2]) < _MIN_RAY:
            raise ValueError(f"Ray {ray} has no token authentication; use 2.52.0 or newer")
        return ray

    @model_validator(mode="after")
    def _fits(self) -> Cluster:
        if self.shm_gib >= min(self.memory_gib, self.head_memory_gib):
            raise ValueError(
                f"shm_gib = {self.shm_gib} is part of memory_gib = {self.memory_gib} and head_memory_gib = "
                f"{self.head_memory_gib}; give less of it or more of those"
            )
        return self


_P = TypeVar("_P", bound="Place")


def load_cluster(file: str | None, overrides: Mapping[str, Any]) -> Cluster:
    """The settings of a file, changed by ``overrides`` (dotted keys). ``UserError`` naming the first mistake."""
    return _load(Cluster, file, overrides)


def load_place(file: str | None, overrides: Mapping[str, Any]) -> Place:
    """As ``load_cluster``, where the cluster is there already: without a file, ``store`` and ``tracking`` are all."""
    return _load(Cluster if file else Place, file, overrides)


def _load(model: type[_P], file: str | None, overrides: Mapping[str, Any]) -> _P:
    where = f"'{file}'" if file else "of the command line"
    values = parse_mapping(read_text(file), where) if file else {}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        if not section:
            values[name] = value
            continue
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"cluster settings {where}: '{section}' is {inner!r}, which holds no '{name}'; correct it")
        inner[name] = value
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise UserError(f"cluster settings {where}: {_first_problem(error)}") from error


def _first_problem(error: pydantic.ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"'{place}' is missing; give it there, or as --{place}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
