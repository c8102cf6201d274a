"""What the tests of ``vodbench launch`` share: the sweep that is launched, and what a refusal looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

Run = Callable[..., tuple[int, str, str]]  # words after "vodbench launch" -> status, stdout, stderr

ROOT = Path(__file__).resolve().parents[3]
NAME = "vodbench-demo"
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
