"""Joining a cluster: what is sent there, and what is refused. With real nodes: tests/cluster."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from vodbench import joining
from vodbench.errors import UserError

NODES = [
    {"NodeID": "a" * 56, "NodeManagerAddress": "10.0.0.1", "Alive": True},
    {"NodeID": "b" * 56, "NodeManagerAddress": "10.0.0.2", "Alive": True},
]


@pytest.fixture
def answering_port() -> Iterator[int]:
    """A server that answers in a protocol of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("address", ["head", "head:", "head:port", "ray://head"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f"Ray address '{address}' is not accepted: give host:port"):
        joining.join(address, {})


def test_an_address_where_nothing_listens_is_refused_before_ray_tries_it(
    refusing_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would try for minutes."""
    monkeypatch.setattr("ray.init", None)
    address = f"127.0.0.1:{refusing_port}"
    with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'"):
        joining.join(address, {})


def test_a_server_of_another_kind_is_refused_before_ray_tries_it(
    answering_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.init", None)
    with pytest.raises(UserError, match="what listens there does not speak gRPC"):
        joining.join(f"127.0.0.1:{answering_port}", {})


@pytest.mark.parametrize(
    ("error", "native", "message"),
    [
        (
            ConnectionError("Failed to connect"),
            "W: RPC error: InvalidAuthToken: Authentication",
            "this process's token",
        ),
        (RuntimeError("Version mismatch: The cluster was started with:\n Ray: 9.9"), "", "runs other versions: .* 9.9"),
        (ConnectionError("Failed to connect\nand more"), "W: unavailable", r"answers at 'auto' \(Failed to connect\)"),
    ],
)
def test_what_ray_refuses_is_one_line(
    error: Exception, native: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**options: Any) -> None:
        os.write(2, native.encode())  # as Ray's C++ side does
        raise error

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(UserError, match=message) as refused:
        joining.join("auto", {})
    assert "\n" not in str(refused.value)
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_our_packages_and_those_of_plugins_are_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = tmp_path / "my_detectors"
    plugin.mkdir()
    (plugin / "__init__.py").write_text("METHODS = {}")
    (tmp_path / "alone.py").write_text("METHODS = {}")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [metadata.EntryPoint("mine", "my_detectors.deep:METHODS", "vodbench.methods")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries if group == "vodbench.methods" else [])
    folders = [Path(folder) for folder in joining.packages()]
    assert [folder.name for folder in folders] == [*joining.OWN_PACKAGES, "my_detectors"]
    assert all((folder / "__init__.py").is_file() for folder in folders)
    entries.append(metadata.EntryPoint("more", "alone:METHODS", "vodbench.methods"))
    with pytest.raises(UserError, match="'alone' is no package with a folder"):
        joining.packages()


def test_versions_are_those_of_constraints() -> None:
    found = joining.versions()
    assert all(found.values()), found
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert {f"{name}=={version}" for name, version in found.items() if name != "Python"} <= {
        line.partition("+")[0] for line in pinned
    }


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"torch": "1.0"}, r"node 10.0.0.2 \(bbbbbbbb\) has torch 1.0, this machine torch "),
        ({"torch": "", "numpy": "9"}, "has no torch, numpy 9, this machine torch .*, numpy "),
    ],
)
def test_a_node_with_other_versions_is_named(
    theirs: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = joining.versions()
    answers = {"10.0.0.1 (aaaaaaaa)": ours, "10.0.0.2 (bbbbbbbb)": ours | theirs}
    monkeypatch.setattr(joining, "_on_every_node", lambda look, *_: answers)
    with pytest.raises(UserError, match=message):
        joining._check_versions()
    answers["10.0.0.2 (bbbbbbbb)"] = ours
    joining._check_versions()


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a marker: a folder of the same name would be on every machine."""
    out = tmp_path / "runs" / "study"
    asked: list[list[str]] = []

    def here_only(look: Any, paths: list[str]) -> dict[str, Any]:
        asked.append(paths)
        assert look(paths) == dict.fromkeys(paths, True)
        return {"near": look(paths), "far": dict.fromkeys(paths, False)}

    monkeypatch.setattr(joining, "_on_every_node", here_only)
    with pytest.raises(UserError, match=f"node far does not see '{out}'"):
        joining.check_shared([str(out), "s3://bucket/data"])
    assert [Path(path).parent for path in asked[0]] == [tmp_path]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(joining, "_on_every_node", None)
    joining.check_shared(["s3://bucket/data", "gs://bucket/study"])


def test_data_that_nobody_may_write_to_is_looked_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(joining, "_on_every_node", lambda look, paths: {"node": look(paths)})
    joining.check_shared([str(tmp_path)])
    with pytest.raises(UserError, match="does not see"):
        joining.check_shared([str(tmp_path / "not-there")])
