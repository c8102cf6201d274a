"""What no schema says: rules of the operator, of the restricted Pod Security Standard, and of our own.

A policy tool of others looks at the pods too (``test_policies``), where it is installed: it needs an environment of its
own, and knows nothing of the operator. So the rules stand here, and each is shown to catch its mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Manifest = dict[str, Any]

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
CREDENTIAL = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY")
RAY_JOB_NAME = 47
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


def problems(manifests: Sequence[Manifest], secrets: Mapping[str, set[str]]) -> list[str]:
    """All of them, each a line. ``secrets``: name -> keys of what the cluster's owner makes."""
    found: list[str] = []
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        found += [f"{name}: {problem}" for problem in _object_problems(manifest)]
        for where, pod in pods(manifest):
            found += [f"{name} {where}: {problem}" for problem in _pod_problems(pod, secrets)]
    return found + list(_missing_config(manifests))


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """(place, pod template) of every pod that comes of a manifest."""
    spec = manifest.get("spec", {})
    if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield "template", spec["template"]
    if manifest["kind"] == "Pod":
        yield "pod", manifest
    if "submitterPodTemplate" in spec:
        yield "submitter", spec["submitterPodTemplate"]
    cluster = ray_spec(manifest)
    if cluster:
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]


def ray_spec(manifest: Manifest) -> Manifest | None:
    """The RayClusterSpec in a manifest."""
    if manifest["kind"] == "RayJob":
        return manifest["spec"].get("rayClusterSpec")  # type: ignore[no-any-return]
    return manifest["spec"] if manifest["kind"] == "RayCluster" else None


def _object_problems(manifest: Manifest) -> Iterator[str]:
    name = manifest["metadata"]["name"]
    if manifest["kind"] in ("RayJob", "RayCluster", "Service") and not DNS_1035.fullmatch(name):
        yield "the name is no DNS-1035 label"
    everywhere = manifest["kind"] in ("Namespace", "ResourceFlavor", "ClusterQueue")
    if not everywhere and manifest["metadata"].get("namespace") != "vodbench":
        yield "is in no namespace of ours"
    if manifest["kind"] == "RayJob":
        yield from _job_problems(manifest)
    cluster = ray_spec(manifest)
    if cluster:
        yield from _cluster_problems(cluster)


def _job_problems(manifest: Manifest) -> Iterator[str]:
    spec = manifest["spec"]
    mode, backoff = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    if len(manifest["metadata"]["name"]) > RAY_JOB_NAME:
        yield f"the name is longer than {RAY_JOB_NAME}"
    if not spec.get("shutdownAfterJobFinishes") and (spec.get("suspend") or spec.get("ttlSecondsAfterFinished")):
        yield "suspend and ttlSecondsAfterFinished need shutdownAfterJobFinishes"
    if backoff and (spec.get("clusterSelector") or mode == "InteractiveMode"):
        yield "backoffLimit excludes clusterSelector and InteractiveMode"
    if mode == "SidecarMode":
        if "submitterPodTemplate" in spec:
            yield "SidecarMode has no submitterPodTemplate"
        if spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].get("restartPolicy") != "Never":
            yield "SidecarMode wants restartPolicy Never of the head"
    if "kueue.x-k8s.io/queue-name" in manifest["metadata"].get("labels", {}):
        if not spec.get("suspend"):
            yield "a job in a queue starts suspended"
        if spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            yield "a job in a queue does not scale"
    for key in ("activeDeadlineSeconds", "backoffLimit"):
        if key not in spec:
            yield f"{key} is missing"


def _cluster_problems(spec: Manifest) -> Iterator[str]:
    version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
    auth = spec.get("authOptions", {})
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield "no token authentication with a Secret"
    elif version < (2, 52):
        yield "token authentication needs rayVersion 2.52 or newer"
    for group in spec["workerGroupSpecs"]:
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if low > high:
            yield f"minReplicas {low} > maxReplicas {high}"
        elif not low <= group.get("replicas", 0) <= high:
            yield f"replicas {group.get('replicas', 0)} outside of {low}..{high}"
    if spec.get("enableInTreeAutoscaling"):
        yield from _autoscaler_problems(spec)


def _autoscaler_problems(spec: Manifest) -> Iterator[str]:
    options = spec.get("autoscalerOptions", {})
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    if options.get("version") == "v2" and any(t["spec"].get("restartPolicy") != "Never" for t in templates):
        yield "autoscaler v2 wants restartPolicy Never of head and workers"
    yield from (f"autoscaler: {problem}" for problem in _container_problems(options))
    tokens = {
        volume["name"]
        for volume in templates[0]["spec"].get("volumes", ())
        for source in volume.get("projected", {}).get("sources", ())
        if "serviceAccountToken" in source
    }
    mounted = {m["name"] for m in options.get("volumeMounts", ()) if m["mountPath"] == TOKEN_FOLDER}
    if not tokens & mounted:
        yield "the autoscaler has no service account token"
    if any(m["name"] in tokens for c in templates[0]["spec"]["containers"] for m in c.get("volumeMounts", ())):
        yield "the head's own container has the autoscaler's token"


def _pod_problems(pod: Manifest, secrets: Mapping[str, set[str]]) -> Iterator[str]:
    spec = pod["spec"]
    security = spec.get("securityContext", {})
    if "vodbench/role" not in pod.get("metadata", {}).get("labels", {}):
        yield "no label vodbench/role, so no NetworkPolicy knows it"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a service account token that is not used"
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"
    claims = {volume["name"] for volume in spec.get("volumes", ())}
    for volume in spec.get("volumes", ()):
        if "hostPath" in volume:
            yield f"volume {volume['name']} is a folder of the host"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no bound"
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        for problem in [*_container_problems(container), *_environment_problems(container, secrets)]:
            yield f"{container['name']}: {problem}"
        for mount in container.get("volumeMounts", ()):
            if claims and mount["name"] not in claims | {"data"}:
                yield f"{container['name']}: mounts {mount['name']}, which is no volume"
        yield from _shared_memory_problems(spec, container)


def _shared_memory_problems(spec: Manifest, container: Manifest) -> Iterator[str]:
    memory = _gib(container.get("resources", {}).get("limits", {}).get("memory", "0Gi"))
    mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
    for volume in spec.get("volumes", ()):
        directory = volume.get("emptyDir", {})
        in_memory = volume["name"] in mounted and directory.get("medium") == "Memory"
        if in_memory and _gib(directory.get("sizeLimit", "0Gi")) >= memory:
            yield f"{container['name']}: shared memory as large as its memory"


def _container_problems(container: Manifest) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "may gain privileges"
    if "ALL" not in security.get("capabilities", {}).get("drop", ()) or security["capabilities"].get("add"):
        yield "keeps capabilities"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "its root is writable"
    amounts = container.get("resources", {})
    requests, limits = amounts.get("requests", {}), amounts.get("limits", {})
    for resource in ("cpu", "memory"):
        if resource not in requests or resource not in limits:
            yield f"no request or no limit of {resource}"
    if requests.get("memory") != limits.get("memory"):
        yield "may use memory that it was not promised"
    if any(requests.get(key) != limits.get(key) for key in {*requests, *limits} if "/" in key):
        yield "requests other GPUs than its limit"
    image = container.get("image")
    if image is not None and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        yield f"image {image} is not pinned"


def _environment_problems(container: Manifest, secrets: Mapping[str, set[str]]) -> Iterator[str]:
    for variable in container.get("env", ()):
        if CREDENTIAL.search(variable["name"]) and "value" in variable:
            yield f"{variable['name']} stands in the manifest"
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference and reference["key"] not in secrets.get(reference["name"], set()):
            yield f"Secret {reference['name']} has no key {reference['key']}"
    if re.search(r"://[^/\s]+:[^/\s]+@", " ".join(map(str, container.get("command", ())))):
        yield "a password in its command"


def _missing_config(manifests: Sequence[Manifest]) -> Iterator[str]:
    there = {m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap"} | {"kube-root-ca.crt"}
    for manifest in manifests:
        for where, pod in pods(manifest):
            for volume in pod["spec"].get("volumes", ()):
                name = volume.get("configMap", {}).get("name")
                if name is not None and name not in there:
                    yield f"{manifest['metadata']['name']} {where}: ConfigMap {name} is missing"


def _gib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Gi": 1.0, "Mi": 1 / 1024}[unit]
