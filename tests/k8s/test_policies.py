"""The pods, those inside RayClusters and RayJobs too, before a policy tool of others."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_rules import pods

# check -> why its finding stands
ACCEPTED = {
    "CKV_K8S_8": "the operator adds the probes of Ray's pods; a pod that submits or checks has none",
    "CKV_K8S_9": "as CKV_K8S_8",
    "CKV_K8S_15": "tags are fixed, and a laptop's images are in no registry",
    "CKV_K8S_35": "S3's and MLflow's clients read the environment",
    "CKV_K8S_40": "PostgreSQL's, MinIO's and Redis's images have users of their own",
    "CKV_K8S_43": "a digest is the registry's; settings accept one",
}

PRIVILEGED = "CKV_K8S_16"


@pytest.mark.slow
def test_the_policy_tool_finds_nothing_else(render: Callable[..., list[Any]], tmp_path: Path) -> None:
    checkov = shutil.which("checkov")
    if checkov is None:
        pytest.skip("needs checkov in an environment of its own: uv tool install checkov")
    documents = list(as_pods(render))
    spec = copy.deepcopy(documents[-1]["spec"])
    spec["containers"][0]["securityContext"]["privileged"] = True
    documents.append({**documents[-1], "metadata": {**documents[-1]["metadata"], "name": "planted"}, "spec": spec})
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump_all(documents))
    words = ["-d", str(tmp_path), "--framework", "kubernetes", "--skip-download", "-o", "json"]
    done = subprocess.run([checkov, *words], capture_output=True, text=True, timeout=400)
    results = json.loads(done.stdout)["results"]
    assert len(results["passed_checks"]) > 500
    found = {(check["check_id"], check["resource"]) for check in results["failed_checks"]}
    assert {where for name, where in found if name == PRIVILEGED} == {"Pod.vodbench.planted"}
    assert sorted((n, where) for n, where in found if n not in ACCEPTED and "planted" not in where) == []


def as_pods(render: Callable[..., list[Any]]) -> Iterator[dict[str, Any]]:
    """What the operator makes pods of, as pods, beside what the tool knows by itself."""
    for folder in ("overlays/dev", "overlays/gpu/sweep", "overlays/kueue/sweep"):
        for manifest in render(folder):
            if manifest["kind"] in ("NetworkPolicy", "Service", "Namespace"):
                yield manifest
            for where, pod in pods(manifest):
                name = f"{folder.replace('/', '-')}-{manifest['metadata']['name']}-{where}"
                metadata = {"name": name, "namespace": "vodbench", "labels": pod["metadata"]["labels"]}
                yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
