"""``vodbench launch`` against a stand-in API server that has the real schemas."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from k8s_stand_in import FAILS, Cluster, served

from vodbench.cli import main
from vodbench.launch import on_kubernetes
from vodbench.launch.settings import Secrets

pytest.importorskip("kubernetes", reason="needs the extra kubernetes")

ROOT = Path(__file__).resolve().parents[2]
NAME = "vodbench-demo"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cluster(schemas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(on_kubernetes, "POLL_S", 0.01)
    keys = {name: set(those) for name, those in Secrets().keys().items()}
    stand_in = Cluster(schemas, secrets=keys, nodes=({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, {}))
    with served(stand_in) as address:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, address)))
        yield stand_in


def kubeconfig(folder: Path, address: str) -> Path:
    file = folder / "kubeconfig"
    contexts = [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("here", "there")]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "there",
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": contexts,
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """(status, stdout, stderr) of a command."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vodbench", "launch", *words])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, printed.out, printed.err

    return call


CLUSTER = ("--context", "here", "--cluster", str(ROOT / "k8s" / "base" / "settings.yaml"))
PARTS = {("ConfigMap", NAME), ("PodDisruptionBudget", NAME), ("RayJob", NAME)}


def refused(outcome: tuple[int, str, str], *words: str) -> None:
    status, _, printed = outcome
    lines = [line for line in printed.splitlines() if line.startswith("error:")]
    assert status == 2, printed
    assert len(lines) == 1, printed
    assert "Traceback" not in printed
    for word in words:
        assert word in lines[0], lines[0]


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


# ---- what users get wrong -----------------------------------------------------------------------------------


def test_a_study_that_runs_is_not_launched_twice(cluster: Cluster, run: Run) -> None:
    cluster.life = [{"jobDeploymentStatus": "Initializing"}]
    assert run("demo", *CLUSTER, "--no-follow")[0] == 0
    before = dict(cluster.objects)
    refused(run("demo", *CLUSTER), "launched already", "starting", "launch stop")
    assert cluster.objects == before


MISTAKES: dict[str, tuple[Callable[[Cluster], Any], tuple[str, ...], tuple[str, ...]]] = {
    "no operator": (lambda c: setattr(c, "operator", False), (), ("no KubeRay operator", "install it")),
    "no namespace": (lambda c: setattr(c, "namespaces", ()), (), ("no namespace 'vodbench'",)),
    "no Secret": (lambda c: c.secrets.pop("vodbench-s3"), (), ("no Secret 'vodbench-s3'", "AWS_ACCESS_KEY_ID")),
    "half a Secret": (
        lambda c: c.secrets["vodbench-s3"].discard("AWS_SECRET_ACCESS_KEY"),
        (),
        ("'vodbench-s3' lacks AWS_SECRET_ACCESS_KEY",),
    ),
    "the API server refuses the job": (lambda c: c.refuses.update({("create", "RayJob"): 403}), (), ("(403)", "right")),
    "the owner cannot be set": (lambda c: c.refuses.update({("patch", "ConfigMap"): 403}), (), ("(403)",)),
    "an image without the method": (
        lambda c: (c.check.update(phase="Failed"), setattr(c, "check_log", "error: unknown method 'rdn'\n")),
        (),
        ("image 'vodbench:0.1.0' cannot run the study: unknown method 'rdn'",),
    ),
    "an image that is not there": (
        lambda c: c.check.update(
            phase="Pending",
            containerStatuses=[
                {
                    "name": "check", "image": "", "imageID": "", "ready": False, "restartCount": 0,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
                }
            ],
        ),
        (),
        ("ImagePullBackOff: not found",),
    ),
    "an unknown context": (lambda c: None, ("--context", "hree"), ("unknown context 'hree': did you mean 'here'",)),
    "too few GPUs": (
        lambda c: None,
        ("--max-gpus", "1", "--set", "workers.training=2"),
        ("--max-gpus 1 is below", "workers.training"),
    ),
    "data of this machine": (lambda c: None, ("--data", "video"), ("folder of this machine",)),
    "an image that moves": (lambda c: None, ("--image", "vodbench:latest"), ("no fixed version",)),
    "a password in an address": (lambda c: None, ("--tracking", "http://me:pw@mlflow:5000"), ("tracking",)),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(mistake: str, cluster: Cluster, run: Run) -> None:
    plant, words, expected = MISTAKES[mistake]
    plant(cluster)
    refused(run("demo", *CLUSTER, *words), *expected)
    assert cluster.names() == set()


def test_no_context_and_no_cluster(cluster: Cluster, run: Run, refusing_port: int, tmp_path: Path) -> None:
    refused(run("demo", *CLUSTER[2:]), "no context is given", "here, there")
    kubeconfig(tmp_path, f"http://127.0.0.1:{refusing_port}")
    refused(run("demo", *CLUSTER), "does not answer", str(refusing_port))
    refused(run("nemo", *CLUSTER), "unknown study 'nemo'")
    refused(run("demo", "--context", "here", "--store", "s3://b/s"), "'image' is missing", "--image")


@pytest.fixture
def gpu_words(tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "gpu.yaml"
    file.write_text("image: vodbench:0.1.0-cuda\nstore: s3://vodbench/studies\n")
    return ("demo", "--context", "here", "--cluster", str(file), "--no-follow")


def test_a_gpu_type_that_nobody_has(cluster: Cluster, run: Run, gpu_words: tuple[str, ...]) -> None:
    refused(run(*gpu_words, "--gpu", "NVIDIA-H100"), "no node has GPUs of type 'NVIDIA-H100'", "NVIDIA-A100-SXM4-40GB")
    assert cluster.names() == set()
    assert run(*gpu_words, "--gpu", "NVIDIA-A100-SXM4-40GB", "--max-gpus", "4")[0] == 0
    (group,) = cluster.objects["RayJob", NAME]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 4)
    study = yaml.safe_load(cluster.objects["ConfigMap", NAME]["data"]["study.yaml"])
    assert study["workers"]["concurrent_trials"] == 2  # each trial takes two: its evaluation has two processes


def test_an_interrupted_launch_leaves_nothing(cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(on_kubernetes, "_outcome", interrupted)
    monkeypatch.setattr(sys, "argv", ["vodbench", "launch", "demo", *CLUSTER])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main()
    assert cluster.made[0] == ("ConfigMap", NAME)
    assert cluster.names() == set()


def test_a_standing_cluster_that_cannot_be_used(run: Run, refusing_port: int) -> None:
    address = ("--ray-address", f"http://127.0.0.1:{refusing_port}")
    store = ("--store", "s3://vodbench/studies")
    refused(run("demo", *address, *store), "no Ray cluster answers", str(refusing_port))
    refused(run("demo", *address), "'store' is missing", "--store")
    refused(run("demo", *address, *store, "--max-gpus", "4"), "--set workers.concurrent_trials=4")
    refused(run("demo", *address, *store, "--data", "video"), "folder of this machine")
    refused(run("demo", *address, *store, "--image", "v:1", "--gpu", "H100"), "--image, --gpu: a standing cluster has")
    refused(run("demo", "--ray-address", "head:8265", *store), "give http://HOST:8265")
    for words in (("demo", *store), ("status",), ("logs", "demo"), ("stop", "demo")):
        refused(run(*words, *address, "--context", "here"), "--context and --ray-address are both given")
    refused(run("status", *address), "no Ray cluster answers")
