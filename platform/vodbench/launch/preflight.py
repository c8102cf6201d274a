"""Everything that can be wrong with a cluster, asked before anything is made there."""

from __future__ import annotations

from vodbench.errors import UserError, nearest
from vodbench.launch.api import Kubernetes
from vodbench.launch.settings import Cluster, Gpu
from vodbench.studies import Study

SECRETS_HOWTO = "see docs/kubernetes.md, 'Secrets'"


def check_study(study: Study) -> None:
    """``UserError`` where the study's data would not be there."""
    root = study.data.root
    if root is None and study.data.generate is None:
        raise UserError(f"study '{study.name}' names no data; give its root with --data")
    if root is not None and "://" not in root:
        raise UserError(f"data root '{root}' is a folder of this machine, which pods do not see; give a URL (s3://...)")


def check_cluster(api: Kubernetes, cluster: Cluster) -> None:
    """``UserError`` for the first thing that is missing there; nothing is written."""
    api.reach()
    if not api.has_operator():
        raise UserError(
            f"context '{api.context}' has no KubeRay operator (it knows no RayJob of ray.io/v1); install it: see "
            "docs/kubernetes.md, 'The operator'"
        )
    if not api.has_namespace():
        raise UserError(
            f"context '{api.context}' has no namespace '{cluster.namespace}'; apply k8s/overlays/gpu (or dev), or give "
            "--namespace"
        )
    _check_secrets(api, cluster)
    if cluster.gpu is not None:
        _check_gpus(api, cluster.gpu)


def _check_secrets(api: Kubernetes, cluster: Cluster) -> None:
    for name, keys in cluster.secrets.keys().items():
        there = api.secret_keys(name)
        if there is None:
            raise UserError(
                f"namespace '{cluster.namespace}' has no Secret '{name}' (keys: {', '.join(keys)}); make it: "
                f"{SECRETS_HOWTO}"
            )
        missing = sorted(set(keys) - there)
        if missing:
            raise UserError(f"Secret '{name}' lacks {', '.join(missing)}; add what is missing: {SECRETS_HOWTO}")


def _check_gpus(api: Kubernetes, gpu: Gpu) -> None:
    """A pool that is empty now shows no nodes, so ``from_zero`` leaves this to the cluster."""
    if gpu.type is None or gpu.from_zero:
        return
    types = {labels[gpu.node_label] for labels in api.node_labels() if gpu.node_label in labels}
    if gpu.type not in types:
        raise UserError(
            f"no node has GPUs of type '{gpu.type}' (label {gpu.node_label}): {nearest(gpu.type, types)}; correct "
            "--gpu, or set gpu.from_zero where such nodes come only when they are asked for"
        )
