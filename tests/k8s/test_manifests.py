"""Every manifest that ``k8s/`` renders: against the schemas, against the rules, and with mistakes planted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_network import Network
from k8s_rules import pods, problems, ray_spec

ROOT = Path(__file__).resolve().parents[2] / "k8s"
SERVICES = ("base/services", "overlays/dev", "overlays/gpu", "overlays/kueue")
SWEEPS = ("base/sweep", "overlays/dev/sweep", "overlays/gpu/sweep", "overlays/kueue/sweep")
FOLDERS = (*SERVICES, "base/cluster", *SWEEPS)

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="module")
def fault_tolerant(render: Render, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The standing cluster with its state in Redis."""
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "k8s").symlink_to(ROOT)
    top = {"resources": ["../k8s/base/cluster"], "components": ["../k8s/components/gcs-fault-tolerance"]}
    (folder / "top").mkdir()
    (folder / "top" / "kustomization.yaml").write_text(yaml.safe_dump({**top, "namespace": "vodbench"}))
    return render(folder / "top")


@pytest.mark.parametrize("folder", FOLDERS)
def test_manifests_are_valid(folder: str, render: Render, schemas: Any, secrets: dict[str, set[str]]) -> None:
    manifests = render(folder)
    assert manifests
    assert [problem for manifest in manifests for problem in schemas.problems(manifest)] == []
    assert problems(manifests, secrets) == []


def test_the_head_can_keep_its_state_in_redis(
    fault_tolerant: list[Manifest], schemas: Any, secrets: dict[str, set[str]]
) -> None:
    assert [problem for manifest in fault_tolerant for problem in schemas.problems(manifest)] == []
    assert problems(fault_tolerant, secrets) == []
    (cluster,) = (m for m in fault_tolerant if m["kind"] == "RayCluster")
    host, _, port = cluster["spec"]["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    (service,) = (m for m in fault_tolerant if m["kind"] == "Service")
    assert (service["metadata"]["name"], str(service["spec"]["ports"][0]["port"])) == (host, port)


def test_no_secret_is_in_the_repository() -> None:
    assert sorted(path.name for path in (ROOT / "secrets").glob("*.env")) == []
    kinds = [
        document["kind"]
        for file in ROOT.rglob("*.yaml")
        for document in yaml.safe_load_all(file.read_text())
        if isinstance(document, dict) and "kind" in document
    ]
    assert len(kinds) > 20
    assert "Secret" not in kinds
    for example in (ROOT / "secrets").glob("*.env.example"):
        values = dict(line.split("=", 1) for line in example.read_text().splitlines() if line and line[0] != "#")
        assert set(values.values()) <= {"", "admin"}, example.name


def test_state_is_on_persistent_volumes(render: Render, fault_tolerant: list[Manifest]) -> None:
    kept = [m for m in [*render("overlays/dev"), *fault_tolerant] if m["kind"] == "StatefulSet"]
    assert {m["metadata"]["name"] for m in kept} == {"vodbench-postgres", "vodbench-minio", "vodbench-redis"}
    for manifest in kept:
        (claim,) = manifest["spec"]["volumeClaimTemplates"]
        mounts = manifest["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert claim["metadata"]["name"] in {mount["name"] for mount in mounts}


def test_the_heads_are_guarded_against_drains(render: Render) -> None:
    for folder in ("base/cluster", *SWEEPS):
        manifests = render(folder)
        (budget,) = (m for m in manifests if m["kind"] == "PodDisruptionBudget")
        (cluster,) = (m for m in manifests if ray_spec(m))
        head = next(pod for where, pod in pods(cluster) if where == "head")
        given = {"ray.io/cluster": cluster["metadata"]["name"], "ray.io/node-type": "head"}  # by the operator
        labels = head["metadata"]["labels"] | given
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert budget["spec"]["minAvailable"] == 1


# ---- network ------------------------------------------------------------------------------------------------

RAY, HEAD = {"vodbench/role": "ray"}, {"vodbench/role": "ray", "ray.io/node-type": "head"}
MLFLOW, POSTGRES, MINIO = ({"vodbench/role": role} for role in ("mlflow", "postgres", "minio"))
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
ELSEWHERE = {"kubernetes.io/metadata.name": "other"}
SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}


def test_what_may_talk_to_what(render: Render) -> None:
    network = Network(render("base/services"))
    assert all(network.joins(RAY, HEAD, port) for port in (6379, 8265, 10001, 34567))
    assert network.joins(RAY, MLFLOW, 5000)
    assert network.joins(MLFLOW, POSTGRES, 5432)
    assert network.enters(HEAD, 8265, pod=OPERATOR, namespace=ELSEWHERE)
    for pod in (RAY, MLFLOW, POSTGRES):
        assert network.leaves(pod, 53, "UDP", pod={"k8s-app": "kube-dns"}, namespace=SYSTEM)
    for pod in (RAY, MLFLOW):
        assert network.leaves(pod, 443, address="52.216.0.1")
    assert network.leaves(HEAD, 6443, address="10.0.0.1")


def test_what_may_not_talk_to_what(render: Render) -> None:
    network = Network(render("base/services"))
    assert not network.joins(RAY, POSTGRES, 5432)
    assert not network.joins(POSTGRES, MLFLOW, 5000)
    assert not network.joins(MLFLOW, HEAD, 8265)
    assert not network.joins({}, {}, 80)
    for pod in (HEAD, MLFLOW, POSTGRES):
        assert not network.enters(pod, 8265, address="52.216.0.1")
        assert not network.enters(pod, 8265, pod={"app": "other"}, namespace=ELSEWHERE)
        assert not network.leaves(pod, 443, address="169.254.169.254")
        assert not network.leaves(pod, 80, address="52.216.0.1")
    assert not network.enters(MLFLOW, 5000, pod=OPERATOR, namespace=ELSEWHERE)
    assert not network.enters(HEAD, 6379, pod=OPERATOR, namespace=ELSEWHERE)
    assert not network.leaves(RAY, 443, address="10.0.0.1")
    assert not network.leaves(POSTGRES, 443, address="52.216.0.1")


def test_the_laptops_bucket_can_be_reached(render: Render) -> None:
    inside, without = Network(render("overlays/dev")), Network(render("base/services"))
    for pod in (RAY, MLFLOW):
        assert inside.joins(pod, MINIO, 9000)
        assert not without.leaves(pod, 9000, pod=MINIO)
    assert not inside.joins(POSTGRES, MINIO, 9000)


# ---- planted mistakes ---------------------------------------------------------------------------------------


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    return next(m for m in manifests if m["kind"] == kind)


def job(manifests: list[Manifest]) -> Manifest:
    return of_kind(manifests, "RayJob")["spec"]  # type: ignore[no-any-return]


def group(manifests: list[Manifest]) -> Manifest:
    return job(manifests)["rayClusterSpec"]["workerGroupSpecs"][0]  # type: ignore[no-any-return]


def head(manifests: list[Manifest]) -> Manifest:
    return job(manifests)["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]  # type: ignore[no-any-return]


def worker(manifests: list[Manifest]) -> Manifest:
    return group(manifests)["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]


def mlflow(manifests: list[Manifest]) -> Manifest:
    return of_kind(manifests, "Deployment")["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def both_policies(manifests: list[Manifest]) -> None:
    job(manifests)["deletionStrategy"] = {
        "onSuccess": {"policy": "DeleteCluster"},
        "deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}],
    }


def twice(manifests: list[Manifest]) -> None:
    ports = head(manifests)["containers"][0]["ports"]
    ports.append(dict(ports[0]))


MISTAKES: dict[str, tuple[Callable[[list[Manifest]], Any], str]] = {
    "a misspelt field": (lambda m: job(m).update(shutdownAfterJobFinished=True), "shutdownAfterJobFinished"),
    "a value of another type": (lambda m: job(m).update(backoffLimit="two"), "'two' is not of type"),
    "a required field left out": (lambda m: group(m).pop("template"), "'template' is a required property"),
    "policies that exclude each other": (both_policies, "cannot be used together"),
    "a port twice": (twice, "is there twice"),
    "another manager": (lambda m: job(m).update(managedBy="me"), "managedBy field value must be"),
    "more workers than the most": (lambda m: group(m).update(minReplicas=9), "minReplicas 9 > maxReplicas"),
    "suspended without shutdown": (
        lambda m: job(m).update(suspend=True, shutdownAfterJobFinishes=False),
        "need shutdownAfterJobFinishes",
    ),
    "retries on a chosen cluster": (lambda m: job(m).update(clusterSelector={"a": "b"}), "excludes clusterSelector"),
    "a sidecar with a submitter": (lambda m: job(m).update(submissionMode="SidecarMode"), "no submitterPodTemplate"),
    "a head that restarts in place": (lambda m: head(m).update(restartPolicy="Always"), "autoscaler v2 wants"),
    "a name with a dot": (lambda m: of_kind(m, "RayJob")["metadata"].update(name="rdn.table4"), "no DNS-1035 label"),
    "no authentication": (lambda m: job(m)["rayClusterSpec"].pop("authOptions"), "no token authentication"),
    "a Ray without authentication": (lambda m: job(m)["rayClusterSpec"].update(rayVersion="2.40.0"), "2.52"),
    "an autoscaler without a token": (
        lambda m: job(m)["rayClusterSpec"]["autoscalerOptions"].pop("volumeMounts"),
        "has no service account token",
    ),
    "the token for everybody": (lambda m: head(m).update(automountServiceAccountToken=True), "that is not used"),
    "root": (lambda m: head(m)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "no seccomp profile": (lambda m: mlflow(m)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    "a capability": (
        lambda m: worker(m)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
        "keeps capabilities",
    ),
    "a writable root": (
        lambda m: mlflow(m)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        "its root is writable",
    ),
    "no memory limit": (lambda m: worker(m)["resources"]["limits"].pop("memory"), "no limit of memory"),
    "a GPU requested only": (
        lambda m: worker(m)["resources"]["requests"].update({"nvidia.com/gpu": "2"}),
        "requests other GPUs",
    ),
    "an image that moves": (lambda m: worker(m).update(image="vodbench:latest"), "is not pinned"),
    "a password in plain": (
        lambda m: mlflow(m)["containers"][0]["env"].append({"name": "DB_PASSWORD", "value": "x"}),
        "DB_PASSWORD stands in the manifest",
    ),
    "a key that no Secret has": (
        lambda m: next(e for e in worker(m)["env"] if "valueFrom" in e)["valueFrom"]["secretKeyRef"].update(key="id"),
        "has no key id",
    ),
    "a study that nobody mounts": (
        lambda m: of_kind(m, "ConfigMap")["metadata"].update(name="other"),
        "ConfigMap vodbench-demo is missing",
    ),
    "a folder of the host": (
        lambda m: head(m)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        "is a folder of the host",
    ),
    "too much shared memory": (
        lambda m: group(m)["template"]["spec"]["volumes"][2]["emptyDir"].update(sizeLimit="64Gi"),
        "shared memory as large",
    ),
    "a pod that policies do not know": (
        lambda m: group(m)["template"]["metadata"]["labels"].pop("vodbench/role"),
        "no NetworkPolicy knows it",
    ),
    "an unknown field of a core object": (lambda m: mlflow(m).update(restartPolice="Always"), "restartPolice"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught(mistake: str, render: Render, schemas: Any, secrets: dict[str, set[str]]) -> None:
    plant, expected = MISTAKES[mistake]
    right = [*render("overlays/gpu/sweep"), *render("overlays/kueue")]
    manifests = copy.deepcopy(right)
    plant(manifests)
    changed = [m for m, before in zip(manifests, right, strict=True) if m != before]
    assert len(changed) == 1
    found = schemas.problems(changed[0]) or problems(manifests, secrets)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize("policy", ["nothing", "ray", "postgres"])
def test_a_policy_that_is_left_out_opens_what_was_closed(policy: str, render: Render) -> None:
    """The network's rules are seen to depend on each of these."""
    kept = [m for m in render("base/services") if (m["kind"], m["metadata"]["name"]) != ("NetworkPolicy", policy)]
    network = Network(kept)
    closed = {
        "nothing": network.enters({}, 80, address="52.216.0.1"),
        "ray": not network.joins(RAY, HEAD, 6379),
        "postgres": not network.joins(MLFLOW, POSTGRES, 5432),
    }
    assert closed[policy]
