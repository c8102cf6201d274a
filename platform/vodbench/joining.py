"""Joining a Ray cluster that is already there: our code goes with us, and what does not fit is refused at once.

A cluster needs Python, Ray and the libraries of ``constraints.txt`` on its nodes, in the driver's versions. It does not
need vodbench: the packages that this process runs, and those of installed plug-ins, are sent along (``py_modules``), so
that a change to a method reaches workers without a new image.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vodbench.errors import UserError

CONNECT_TIMEOUT_S = 5.0
NODE_TIMEOUT_S = 120.0  # a node's first worker imports nothing heavy, but a busy machine may take long to start it

OWN_PACKAGES = ("vodbench", "vodbench_methods", "vodbench_datasets")
PLUGIN_GROUPS = ("vodbench.methods", "vodbench.datasets")
NOT_CODE = ["**/__pycache__/**", "*.pyc"]  # they would make every upload a new one

PASSING = ("TaskUnschedulableError", "NodeDiedError", "WorkerCrashedError", "LocalRayletDiedError")

HTTP2_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # length (3 bytes), type (4 = SETTINGS), flags, stream: RFC 9113, 4.1 and 6.5
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS

TOKEN_REFUSED = "InvalidAuthToken"  # Ray's word for a missing token as well

# What a worker computes with. Versions are compared without what comes after "+": CPU and CUDA builds go together.
LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "opencv-python-headless", "pydantic", "fsspec")


def join(address: str, runtime_env: Mapping[str, Any]) -> None:
    """Connect this process to the cluster at ``address``: ``host:port``, ``ray://host:port`` or ``auto``.

    Raises:
        UserError: nothing answers there, it wants a token that this process does not have, it runs another version of
            Ray or Python, or one of its nodes another version of a library.
    """
    import logging

    import ray

    _probe(address)
    for chatty in ("ray._private.runtime_env.packaging", "ray._private.worker"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    env = {**runtime_env, "py_modules": packages(), "excludes": NOT_CODE}
    with _native_messages() as messages:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, runtime_env=env)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.AuthenticationError) as error:
            raise _refused(address, error, messages()) from error
    try:
        _check_versions()
    except UserError:
        ray.shutdown()
        raise


def packages() -> list[str]:
    """Folders of the packages that workers import: ours, and those of plug-ins that entry points name."""
    plugins = (
        entry.value.partition(":")[0].partition(".")[0]
        for group in PLUGIN_GROUPS
        for entry in metadata.entry_points(group=group)
    )
    return [_folder(name) for name in dict.fromkeys((*OWN_PACKAGES, *plugins))]


def check_shared(paths: Sequence[str]) -> None:
    """``UserError`` when a node does not see the same folder as this process at one of these local paths.

    A marker is written beside or in each path that this process may write to, looked for on every node, and removed.
    Where it may not, the path itself is looked for.
    """
    local = [path for path in paths if "://" not in path]
    if not local:
        return
    with _marked(local) as markers:
        for node, seen in _on_every_node(_sees, list(markers)).items():
            for marker, there in seen.items():
                if not there:
                    raise UserError(
                        f"node {node} does not see '{markers[marker]}' of this machine; give a URL "
                        "(s3://bucket/...) or a folder that all nodes share"
                    )


@contextmanager
def _marked(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    """Path to look for -> the path that it stands for."""
    markers: dict[str, str] = {}
    written: list[Path] = []
    try:
        for path in paths:
            folder = next(p for p in (Path(path), *Path(path).absolute().parents) if p.is_dir())
            marker = folder / f".vodbench-{uuid.uuid4().hex}"
            try:
                marker.touch()
            except OSError:  # read-only, as data may be
                markers[str(Path(path).absolute())] = path
                continue
            written.append(marker)
            markers[str(marker)] = path
        yield markers
    finally:
        for marker in written:
            with suppress(FileNotFoundError):
                marker.unlink()


def _sees(paths: Sequence[str]) -> dict[str, bool]:
    """Runs on a node."""
    return {path: os.path.exists(path) for path in paths}


def versions() -> dict[str, str]:
    """Of Python and of ``LIBRARIES``; empty where one is not installed. Runs on every node."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _check_versions() -> None:
    ours = versions()
    for node, theirs in _on_every_node(versions).items():
        other = [name for name, version in ours.items() if theirs.get(name, "") != version]
        if other:
            here = ", ".join(f"{name} {ours[name]}" for name in other)
            there = ", ".join(f"{name} {theirs[name]}" if theirs.get(name) else f"no {name}" for name in other)
            raise UserError(
                f"node {node} has {there}, this machine {here}: results would not be the same; install what "
                "constraints.txt names on both"
            )


def _on_every_node(look: Any, *arguments: Any) -> dict[str, Any]:
    """``look(*arguments)`` in a task of each node that lives, by the node's name. Nodes may come and go meanwhile."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    deadline = time.monotonic() + NODE_TIMEOUT_S

    def answer_of(node: str) -> Any:
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return remote.options(scheduling_strategy=there).remote(*arguments)

    found = {}
    asked = {node: (name, answer_of(node)) for node, name in _living().items()}
    for node, (name, answer) in asked.items():
        while True:
            try:
                found[name] = ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))
                break
            except (ray.exceptions.RayError, TimeoutError) as error:
                # Ray notices some seconds later that a node is gone, and knows a new one before it gives it tasks.
                if node not in _living():
                    break
                if time.monotonic() > deadline or type(error).__name__ not in PASSING:
                    raise UserError(
                        f"node {name} of the cluster cannot run our code ({_first_line(error)}); see its log, or "
                        "remove the node"
                    ) from error
                time.sleep(1.0)
                answer = answer_of(node)
    return found


def _living() -> dict[str, str]:
    """Id -> name of the nodes that live, as far as Ray knows."""
    import ray

    nodes = list(ray.nodes())  # type: ignore[no-untyped-call]
    return {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in nodes if node["Alive"]}


def _folder(package: str) -> str:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"'{package}' is no package with a folder, so that it cannot be sent to a cluster; make it one")
    return str(Path(next(iter(spec.submodule_search_locations))))


def _probe(address: str) -> None:
    """Ray itself tries an address that is none of its own for minutes: ask first whether a gRPC server listens."""
    host, separator, port = address.removeprefix("ray://").partition(":")
    if address == "auto":
        return
    if not separator or not port.isdigit():
        raise UserError(f"Ray address '{address}' is not accepted: give host:port, ray://host:port or auto")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(len(HTTP2_SETTINGS))
    except OSError as error:
        raise _unreachable(address, str(error)) from error
    if answer[3:4] != HTTP2_SETTINGS[3:4]:
        raise _unreachable(address, "what listens there does not speak gRPC")


@contextmanager
def _native_messages() -> Iterator[Callable[[], str]]:
    """What Ray's C++ side writes to the standard error meanwhile: a line each second of a connection that fails, and
    the only place that tells a refused token from a cluster that is not there."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept, open(os.dup(2), "wb") as usual:

        def messages() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace")

        os.dup2(kept.fileno(), 2)
        try:
            yield messages
        finally:
            sys.stderr.flush()
            os.dup2(usual.fileno(), 2)


def _refused(address: str, error: Exception, messages: str) -> UserError:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return UserError(f"the Ray cluster at '{address}' runs other versions: {text}; use the same on both")
    if TOKEN_REFUSED in messages + text:
        return UserError(
            f"the Ray cluster at '{address}' does not accept this process's token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the cluster's"
        )
    return _unreachable(address, str(error))


def _unreachable(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at '{address}' ({_first_line(reason)}); start one, correct the address, or leave "
        "it out to run on this machine"
    )


def _first_line(reason: object) -> str:
    text = str(reason).strip()
    return text.splitlines()[0] if text else "no answer"
