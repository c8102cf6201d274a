"""The pods of a Ray cluster: non-root, read-only but for named folders, bounded, and without the cluster's token.

They satisfy the "restricted" Pod Security Standard. The operator adds ``ray start``, its probes and the Ray token.
"""

from __future__ import annotations

from typing import Any

from vodbench.launch.settings import Cluster

Manifest = dict[str, Any]

USER = 10001  # the image's
HOME = "/home/vodbench"
STUDY_MOUNT = "/etc/vodbench/study"
TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3600

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(role: str, study: str | None = None) -> dict[str, str]:
    """What NetworkPolicies and the disruption budget go by."""
    return {"vodbench/role": role, **({"vodbench/study": study} if study else {})}


def resources(cpus: int | str, memory: str, extra: Manifest | None = None) -> Manifest:
    """Requests that are also limits: memory that a pod was promised and another uses would end it."""
    amounts = {"cpu": str(cpus), "memory": memory, **(extra or {})}
    return {"requests": dict(amounts), "limits": dict(amounts)}


def head_pod(cluster: Cluster, study: str | None = None) -> Manifest:
    """The head: the driver runs here, and nothing else of ours. With ``study``, its ConfigMap is mounted."""
    container = _ray_container(cluster, "ray-head")
    container["resources"] = resources(cluster.head_cpus, f"{cluster.head_memory_gib}Gi")
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
    ]
    volumes = _scratch_volumes(cluster)
    if cluster.queue is None:
        volumes.append(autoscaler_token())
    if study is not None:
        container["volumeMounts"].append({"name": "study", "mountPath": STUDY_MOUNT, "readOnly": True})
        volumes.append({"name": "study", "configMap": {"name": study}})
    return _pod(cluster, [container], volumes, study)


def worker_pod(cluster: Cluster, slots: int, cpus: int, memory_gib: int, study: str | None = None) -> Manifest:
    """A worker with ``slots`` GPUs (where the cluster has any)."""
    gpu = cluster.gpu
    container = _ray_container(cluster, "ray-worker")
    container["resources"] = resources(cpus, f"{memory_gib}Gi", {gpu.resource: str(slots)} if gpu else None)
    pod = _pod(cluster, [container], _scratch_volumes(cluster), study)
    if gpu:
        pod["spec"]["tolerations"] = [{"key": gpu.resource, "operator": "Exists", "effect": "NoSchedule"}]
        if gpu.type is not None:
            pod["spec"]["nodeSelector"] = {gpu.node_label: gpu.type}
    return pod


def submitter_pod(cluster: Cluster, study: str) -> Manifest:
    """What hands the job to the head, and then follows its log."""
    container = plain_container(cluster, "ray-job-submitter")
    container["resources"] = resources("500m", "1Gi")
    return _pod(cluster, [container], plain_volumes(), study, restart="Never")


def plain_container(cluster: Cluster, name: str) -> Manifest:
    """A container of the image without Ray's folders and without credentials."""
    return {
        "name": name,
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "HOME", "value": HOME}],
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": HOME}],
    }


def plain_volumes() -> list[Manifest]:
    """The folders that a container may write to."""
    return [{"name": name, "emptyDir": {"sizeLimit": "1Gi"}} for name in ("tmp", "home")]


def environment(cluster: Cluster) -> list[Manifest]:
    """Addresses in plain, credentials by reference."""
    plain = {
        "HOME": HOME,
        "MLFLOW_TRACKING_URI": cluster.tracking,
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if cluster.s3_endpoint is not None:
        plain["FSSPEC_S3_ENDPOINT_URL"] = cluster.s3_endpoint
    variables: list[Manifest] = [{"name": name, "value": value} for name, value in plain.items()]
    for secret in (cluster.secrets.s3, cluster.secrets.mlflow):
        for key in cluster.secrets.keys()[secret]:
            variables.append({"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return variables


def autoscaler_token() -> Manifest:
    """The service account's token as a volume that the autoscaler's container alone mounts."""
    sources: list[Manifest] = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    return {"name": "autoscaler-token", "projected": {"defaultMode": 0o440, "sources": sources}}


def _ray_container(cluster: Cluster, name: str) -> Manifest:
    container = plain_container(cluster, name)
    container["env"] = environment(cluster)
    container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    return container


def _scratch_volumes(cluster: Cluster) -> list[Manifest]:
    return [
        {"name": "tmp", "emptyDir": {"sizeLimit": f"{cluster.scratch_gib}Gi"}},
        {"name": "home", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{cluster.shm_gib}Gi"}},
    ]


def _pod(
    cluster: Cluster, containers: list[Manifest], volumes: list[Manifest], study: str | None, restart: str | None = None
) -> Manifest:
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "securityContext": dict(POD_SECURITY),
        "containers": containers,
        "volumes": volumes,
    }
    # Autoscaler v2 replaces pods itself: one that were restarted in place would be a node that it does not know.
    if restart or cluster.queue is None:
        spec["restartPolicy"] = restart or "Never"
    if cluster.pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": cluster.pull_secret}]
    if cluster.priority_class is not None:
        spec["priorityClassName"] = cluster.priority_class
    return {"metadata": {"labels": labels("ray", study)}, "spec": spec}
