"""Fixtures of the Kubernetes tests: rendered manifests, schemas, the Secrets that the examples make."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).resolve().parent
MANIFESTS = HERE.parents[1] / "k8s"
sys.path.insert(0, str(HERE / "support"))

Render = Callable[[str | Path], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def render() -> Render:
    """The manifests of a folder below ``k8s/`` (or of any), as kustomize makes them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl, whose kustomize renders the manifests (it asks no cluster)")

    @cache
    def rendered(folder: str) -> str:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return lambda folder: [m for m in yaml.safe_load_all(rendered(str(MANIFESTS / folder))) if m]


@pytest.fixture(scope="session")
def schemas(shared: Path) -> Any:
    pytest.importorskip("celpy", reason="needs the package cel-python")
    from k8s_schemas import Schemas

    return Schemas(shared / "k8s")


@pytest.fixture(scope="session")
def secrets(render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Secret -> keys, as ``k8s/secrets`` makes them of its examples."""
    folder = tmp_path_factory.mktemp("secrets") / "secrets"
    shutil.copytree(MANIFESTS / "secrets", folder)
    for example in folder.glob("*.env.example"):
        example.rename(example.with_suffix(""))
    return {m["metadata"]["name"]: set(m["data"]) for m in render(folder)}


@pytest.fixture
def cluster(schemas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for a cluster's API server, in the context "here"."""
    from k8s_launch import kubeconfig
    from k8s_stand_in import Cluster, served

    from vodbench.launch import on_kubernetes
    from vodbench.launch.settings import Secrets

    monkeypatch.setattr(on_kubernetes, "POLL_S", 0.01)
    keys = {name: set(those) for name, those in Secrets().keys().items()}
    stand_in = Cluster(schemas, secrets=keys, nodes=({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}, {}))
    with served(stand_in) as address:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, address)))
        yield stand_in


@pytest.fixture
def run(run: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``vodbench launch``."""
    return partial(run, "launch")
