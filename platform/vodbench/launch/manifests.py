"""What is submitted for a study: the RayJob, the ConfigMap with the study, the head's disruption budget.

The same functions make the manifests that ``k8s/`` ships, so that there is one description of a pod.
"""

from __future__ import annotations

import shlex
from hashlib import sha256
from typing import Any

import yaml

from vodbench.launch.pods import (
    CONTAINER_SECURITY,
    STUDY_MOUNT,
    TOKEN_MOUNT,
    Manifest,
    environment,
    head_pod,
    labels,
    plain_container,
    plain_volumes,
    resources,
    submitter_pod,
    worker_pod,
)
from vodbench.launch.settings import Cluster, Place
from vodbench.launch.sizes import Sizes
from vodbench.storage import join
from vodbench.studies import Study

STUDY_FILE = "study.yaml"
MAX_NAME = 47  # of a RayJob: the operator appends to it, and services' names end at 63
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def job_name(study: str) -> str:
    """The study's name as Kubernetes accepts it; different studies never get the same."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in study).strip("-")
    name = f"vodbench-{plain}"
    if plain == study and len(name) <= MAX_NAME:
        return name
    digest = sha256(study.encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME - 7].rstrip('-')}-{digest}"


def launched_study(study: Study, sizes: Sizes) -> Study:
    """The study as it runs there: as many trials at once as the cluster is made for."""
    workers = study.workers.model_copy(update={"concurrent_trials": sizes.at_once})
    return study.model_copy(update={"workers": workers})


def sweep_command(place: Place, study: Study, file: str) -> list[str]:
    """What runs there; the same again continues what it began."""
    out = join(place.store, study.name)
    return ["vodbench", "sweep", file, "--out", out, "--tracking", place.tracking, "--ray", "auto"]


def documents(study: Study, cluster: Cluster, sizes: Sizes) -> list[Manifest]:
    """Everything that a launch creates, in the order in which it is created."""
    return [study_config(study, cluster, sizes), head_budget(study, cluster), ray_job(study, cluster, sizes)]


def study_config(study: Study, cluster: Cluster, sizes: Sizes) -> Manifest:
    data = {STUDY_FILE: study_text(launched_study(study, sizes))}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(study, cluster), "data": data}


def study_text(study: Study) -> str:
    """The study as a file: what it says itself, so that an image with fewer settings reads it too."""
    said = study.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(said, sort_keys=False, width=110)
    return text


def head_budget(study: Study, cluster: Cluster) -> Manifest:
    """No drain takes the head of a running sweep. Custom pods can have ``minAvailable`` only."""
    selector = {"ray.io/node-type": "head", "vodbench/study": job_name(study.name)}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(study, cluster),
        "spec": {"minAvailable": 1, "selector": {"matchLabels": selector}},
    }


def ray_job(study: Study, cluster: Cluster, sizes: Sizes) -> Manifest:
    """A Ray cluster for one sweep: it goes when the sweep ends, and another comes where it breaks."""
    name = job_name(study.name)
    metadata = _metadata(study, cluster)
    spec: Manifest = {
        "entrypoint": shlex.join(sweep_command(cluster, study, f"{STUDY_MOUNT}/{STUDY_FILE}")),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": int(cluster.keep_minutes * 60),
        "activeDeadlineSeconds": int(cluster.max_hours * 3600),
        "preRunningDeadlineSeconds": int(cluster.start_minutes * 60),
        "backoffLimit": cluster.retries,
        "submitterConfig": {"backoffLimit": 3},
        "submitterPodTemplate": submitter_pod(cluster, name),
        "rayClusterSpec": ray_cluster_spec(cluster, sizes, name),
    }
    if cluster.queue is not None:
        metadata["labels"][QUEUE_LABEL] = cluster.queue
        spec["suspend"] = True  # Kueue takes it back when it admits the sweep
        del spec["preRunningDeadlineSeconds"]  # waiting in the queue is no failure to start
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def ray_cluster(cluster: Cluster, sizes: Sizes, name: str = "vodbench") -> Manifest:
    """A standing cluster, for ``vodbench launch --ray-address``."""
    metadata = {"name": name, "namespace": cluster.namespace, "labels": labels("ray")}
    spec = ray_cluster_spec(cluster, sizes, None)
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def ray_cluster_spec(cluster: Cluster, sizes: Sizes, study: str | None) -> Manifest:
    """Head and one group of workers. With a queue their number is fixed, since Kueue reserves for all of them."""
    scales = cluster.queue is None
    first = sizes.first_pods if scales else sizes.pods
    group: Manifest = {
        "groupName": "gpu" if sizes.gpus else "cpu",
        "replicas": first,
        "minReplicas": first,
        "maxReplicas": sizes.pods,
        "rayStartParams": {},
        "template": worker_pod(cluster, sizes.slots_a_pod, sizes.cpus, sizes.memory_gib, study),
    }
    spec: Manifest = {
        "rayVersion": cluster.ray_version,
        "authOptions": {"mode": "token", "secretName": cluster.secrets.ray},
        # The head has no CPUs to give: what computes would take memory from what keeps the cluster together.
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": head_pod(cluster, study),
        },
        "workerGroupSpecs": [group],
    }
    if scales:
        idle = int(cluster.idle_minutes * 60)
        group["idleTimeoutSeconds"] = idle
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = _autoscaler(idle)
    return spec


def check_pod(study: Study, cluster: Cluster) -> Manifest:
    """Asks the image, from inside the cluster, whether it can run the study with this bucket and this server."""
    name = f"{job_name(study.name)}-check"
    container = plain_container(cluster, "check")
    sweep = sweep_command(cluster, study, f"{STUDY_MOUNT}/{STUDY_FILE}")
    container["command"] = ["vodbench", "launch", "check", *sweep[2:7]]
    container["env"] = environment(cluster)
    container["resources"] = resources("1", "4Gi")
    container["volumeMounts"].append({"name": "study", "mountPath": STUDY_MOUNT, "readOnly": True})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**_metadata(study, cluster), "name": name, "labels": labels("ray", job_name(study.name))},
        "spec": {
            **submitter_pod(cluster, job_name(study.name))["spec"],
            "containers": [container],
            "volumes": [*plain_volumes(), {"name": "study", "configMap": {"name": job_name(study.name)}}],
            "activeDeadlineSeconds": int(cluster.start_minutes * 60),
        },
    }


def to_yaml(manifests: list[Manifest]) -> str:
    """One YAML stream, which ``kubectl apply -f -`` takes."""
    return "---\n".join(yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110) for manifest in manifests)


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with texts as blocks that can be read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _autoscaler(idle_seconds: int) -> Manifest:
    return {
        "version": "v2",
        "idleTimeoutSeconds": idle_seconds,
        "resources": resources("500m", "1Gi"),
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [{"name": "autoscaler-token", "mountPath": TOKEN_MOUNT, "readOnly": True}],
    }


def _metadata(study: Study, cluster: Cluster) -> Manifest:
    name = job_name(study.name)
    return {"name": name, "namespace": cluster.namespace, "labels": labels("sweep", name)}
