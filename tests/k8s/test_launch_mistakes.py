"""What users get wrong with ``vodbench launch``: one line each, and nothing is left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Run, refused
from k8s_launch import CLUSTER, NAME, kubeconfig
from k8s_stand_in import Cluster

from vodbench.cli import main
from vodbench.launch import on_kubernetes

pytest.importorskip("kubernetes", reason="needs the extra kubernetes")


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
