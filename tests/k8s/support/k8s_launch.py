"""What the tests of ``vodbench launch`` share: the sweep that is launched, and where to."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
NAME = "vodbench-demo"
CLUSTER = ("--context", "here", "--cluster", str(ROOT / "k8s" / "base" / "settings.yaml"))
PARTS = {("ConfigMap", NAME), ("PodDisruptionBudget", NAME), ("RayJob", NAME)}


def kubeconfig(folder: Path, address: str) -> Path:
    """A file with two contexts, "here" and "there", of the cluster at that address."""
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
