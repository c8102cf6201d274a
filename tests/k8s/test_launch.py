"""``vodbench launch`` against a stand-in API server that has the real schemas."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from command_line import Run, refused
from k8s_launch import CLUSTER, NAME, PARTS, ROOT
from k8s_stand_in import FAILS, Cluster

from vodbench.launch import on_kubernetes

pytest.importorskip("kubernetes", reason="needs the extra kubernetes")


def test_a_launch_makes_the_objects_and_shows_the_sweeps_log(cluster: Cluster, run: Run) -> None:
    cluster.driver_log = "trial 1\ntrial 2\ntrial 3\n"
    status, out, said = run("demo", *CLUSTER)
    assert status == 0, said
    assert out == "trial 1\ntrial 2\ntrial 3\n"
    assert "CPU workers in all" in said
    assert "running" in said
    assert said.rstrip().endswith("succeeded")
    assert cluster.made == [
        ("ConfigMap", NAME),
        ("PodDisruptionBudget", NAME),
        ("Pod", f"{NAME}-check"),
        ("RayJob", NAME),
    ]
    assert cluster.names() == PARTS
    owner = cluster.objects["RayJob", NAME]["metadata"]["uid"]
    for kind in ("ConfigMap", "PodDisruptionBudget"):
        (reference,) = cluster.objects[kind, NAME]["metadata"]["ownerReferences"]
        assert (reference["kind"], reference["uid"]) == ("RayJob", owner)


def test_a_dry_run_prints_what_kustomize_renders_and_asks_no_cluster(run: Run, render: Callable[..., Any]) -> None:
    """One description of the pods: the manifests' overlays say in patches what the settings beside them say."""
    for folder in ("base", "overlays/dev", "overlays/gpu", "overlays/kueue"):
        settings = ROOT / "k8s" / folder / "settings.yaml"
        status, out, said = run("demo", "--cluster", str(settings), "--dry-run")
        assert status == 0, said
        assert sorted_by_kind(yaml.safe_load_all(out)) == sorted_by_kind(render(f"{folder}/sweep"))
    base = ROOT / "k8s" / "base"
    assert (
        run("demo", "--cluster", str(base / "settings.yaml"), "--dry-run")[1]
        == (base / "sweep" / "sweep.yaml").read_text()
    )


def test_the_standing_cluster_is_of_the_same_pods(render: Callable[..., Any]) -> None:
    from vodbench.launch.manifests import ray_cluster
    from vodbench.launch.settings import load_cluster
    from vodbench.launch.sizes import sizes_of
    from vodbench.studies import load_study

    settings = load_cluster(str(ROOT / "k8s" / "base" / "settings.yaml"), {})
    made = ray_cluster(settings, sizes_of(load_study("demo"), settings))
    (rendered,) = (m for m in render("base/cluster") if m["kind"] == "RayCluster")
    assert made == rendered


def test_a_dry_run_for_a_standing_cluster_asks_nobody(run: Run, refusing_port: int) -> None:
    words = ("--ray-address", f"http://127.0.0.1:{refusing_port}", "--store", "s3://b/s", "--set", "search.trials=3")
    status, out, said = run("demo", *words, "--dry-run")
    assert (status, said) == (0, "")
    assert out.startswith("# vodbench sweep study.yaml --out s3://b/s/demo --tracking ")
    assert yaml.safe_load(out)["search"]["trials"] == 3


def sorted_by_kind(manifests: Any) -> list[Any]:
    """In one order: kustomize sorts, and patches append to lists of variables."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            items = [plain(inner) for inner in value]
            named = all(isinstance(item, dict) and "name" in item for item in items)
            return sorted(items, key=lambda item: item["name"]) if named else items
        return value

    return sorted((plain(manifest) for manifest in manifests), key=lambda m: m["kind"])


def test_status_logs_and_stop(cluster: Cluster, run: Run) -> None:
    cluster.life = [{"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}]
    assert run("demo", *CLUSTER, "--no-follow")[0] == 0
    assert run("status", "--context", "here")[1] == f"{NAME}: running\n"
    assert run("status", "demo", "--context", "here")[1] == f"{NAME}: running\n"
    status, _, said = run("stop", "demo", "--context", "here")
    assert (status, cluster.names()) == (0, set()), said
    refused(run("stop", "demo", "--context", "here"), "no sweep", NAME)
    refused(run("logs", "demo", "--context", "here"), "no sweep of study 'demo'")


def test_a_study_that_failed_is_launched_again_and_continues(cluster: Cluster, run: Run) -> None:
    cluster.life = list(FAILS)
    cluster.driver_log = "trial 1\nerror: out of memory\n"
    status, out, said = run("demo", *CLUSTER)
    assert status == 1
    assert "error: out of memory" in out
    assert "AppFailed: Job entrypoint command failed with exit code 1" in said
    failed = cluster.objects["RayJob", NAME]
    assert run("demo", *CLUSTER, "--no-follow", "--set", "search.trials=3")[0] == 0
    again = cluster.objects["RayJob", NAME]
    assert again["metadata"]["uid"] != failed["metadata"]["uid"]
    assert again["spec"]["entrypoint"] == failed["spec"]["entrypoint"]
    assert yaml.safe_load(cluster.objects["ConfigMap", NAME]["data"]["study.yaml"])["search"]["trials"] == 3
    assert cluster.names() == PARTS


def test_a_job_that_the_operator_finds_invalid_has_failed(cluster: Cluster, run: Run) -> None:
    """Its own word for that is no end to the operator: it waits for the job to be changed."""
    cluster.life = [
        {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "backoffLimit"}
    ]
    status, _, said = run("demo", *CLUSTER)
    assert status == 1
    assert f"{NAME}: failed (ValidationFailed: backoffLimit); launch it again" in " ".join(said.split())
    assert run("demo", *CLUSTER, "--no-follow")[0] == 0  # it is in nobody's way


class Rotating:
    """A node that keeps the last lines of a log only."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def pods(self, _: str) -> list[Any]:
        status, metadata = SimpleNamespace(phase="Running"), SimpleNamespace(name="submitter")
        return [SimpleNamespace(status=status, metadata=metadata)]

    def log(self, _: str) -> str:
        return self.texts.pop(0)


def test_a_log_that_the_node_began_anew_is_followed_on() -> None:
    node: Any = Rotating("trial 1\ntrial 2\ntri", "trial 1\ntrial 2\ntrial 3\n", "trial 4\n", "trial 4\ntrial 5\n")
    log, written = on_kubernetes.Log(node, NAME), list[str]()
    for _ in range(4):
        log.pass_on(written.append)
    assert "".join(written) == "".join(f"trial {number}\n" for number in range(1, 6))
