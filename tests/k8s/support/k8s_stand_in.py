"""A stand-in for a cluster's API server: holds objects against the real schemas, and lives RayJobs' lives.

What it answers where is Kubernetes' REST interface; what happens to a RayJob is a list of states, one step a question.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Manifest = dict[str, Any]

PATH = re.compile(r"/(?:api|apis/[^/]+)/v1/namespaces/vodbench/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?")
KINDS = {
    "configmaps": "ConfigMap",
    "pods": "Pod",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "rayjobs": "RayJob",
    "secrets": "Secret",
}
SUCCEEDS = [
    {"jobDeploymentStatus": "Initializing"},
    {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
]
FAILS = [
    {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    {
        "jobDeploymentStatus": "Failed",
        "jobStatus": "FAILED",
        "reason": "AppFailed",
        "message": "Job entrypoint command failed\nwith exit code 1",
    },
]


@dataclass
class Cluster:
    """Its contents, and what goes wrong with it. ``life``: the states of each RayJob, the last one for good."""

    schemas: Any
    operator: bool = True
    namespaces: tuple[str, ...] = ("vodbench",)
    secrets: dict[str, set[str]] = field(default_factory=dict)
    nodes: tuple[dict[str, str], ...] = ()
    life: list[Manifest] = field(default_factory=lambda: list(SUCCEEDS))
    driver_log: str = ""
    check: Manifest = field(default_factory=lambda: {"phase": "Succeeded"})
    check_log: str = ""
    refuses: dict[tuple[str, str], int] = field(default_factory=dict)  # (verb, kind) -> status
    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    made: list[tuple[str, str]] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=dict)

    def names(self) -> set[tuple[str, str]]:
        return set(self.objects)

    def create(self, manifest: Manifest, *, dry_run: bool) -> tuple[int, Manifest]:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        problems = self.schemas.problems(manifest)
        if problems:
            return 422, _status(422, f"{kind} {name!r} is invalid: {problems[0]}")
        if (kind, name) in self.objects:
            return 409, _status(409, f"{kind} {name!r} already exists")
        stored = {**manifest, "metadata": {**manifest["metadata"], "uid": str(uuid.uuid4())}}
        if not dry_run:
            self.objects[kind, name] = stored
            self.made.append((kind, name))
        return 201, stored

    def read(self, kind: str, name: str) -> Manifest | None:
        found = self.objects.get((kind, name))
        if found is None and kind == "Secret" and name in self.secrets:
            return {"kind": kind, "metadata": {"name": name}, "data": dict.fromkeys(self.secrets[name], "eA==")}
        if found is not None and kind == "Pod":
            return {**found, "status": self.check}
        return found if kind != "RayJob" or found is None else {**found, "status": self._lived(name)}

    def pods(self, selector: str) -> list[Manifest]:
        """The pod that submits a RayJob's driver, once there is a cluster."""
        name = selector.removeprefix("job-name=")
        if ("RayJob", name) not in self.objects or not self._now(name).get("jobStatus"):
            return []
        metadata = {"name": f"{name}-x7k2p", "creationTimestamp": "2026-01-01T00:00:00Z"}
        return [{"metadata": metadata, "status": {"phase": "Running"}}]

    def log(self, pod: str) -> str:
        if pod.endswith("-check"):
            return self.check_log
        lines = self.driver_log.splitlines(keepends=True)
        seen = self.asked.get(pod.rpartition("-")[0], 0)
        return "".join(lines[: max(1, len(lines) * seen // max(1, len(self.life) - 1))])

    def delete(self, kind: str, name: str) -> Manifest | None:
        gone = self.objects.pop((kind, name), None)
        if gone is not None:
            self.asked.pop(name, None)
            for key, other in list(self.objects.items()):
                if any(r["uid"] == gone["metadata"]["uid"] for r in other["metadata"].get("ownerReferences", ())):
                    del self.objects[key]
        return gone

    def _now(self, name: str) -> Manifest:
        return self.life[min(self.asked.get(name, 0), len(self.life) - 1)]

    def _lived(self, name: str) -> Manifest:
        now = self._now(name)
        self.asked[name] = self.asked.get(name, 0) + 1
        return now


@contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """The API server's address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("get")

        def do_POST(self) -> None:
            self._answer("create")

        def do_DELETE(self) -> None:
            self._answer("delete")

        def do_PATCH(self) -> None:
            self._answer("patch")

        def _answer(self, verb: str) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, answer = _respond(cluster, verb, self.path, body)
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _respond(cluster: Cluster, verb: str, url: str, body: Any) -> tuple[int, Any]:
    path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
    if path.rstrip("/") == "/version":
        return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "",
                     "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}  # fmt: skip
    if path.rstrip("/") == "/apis/ray.io/v1":
        kinds = [{"name": "rayjobs", "kind": "RayJob", "namespaced": True, "singularName": "", "verbs": []}]
        return (200, {"groupVersion": "ray.io/v1", "resources": kinds}) if cluster.operator else _missing(path)
    if path == "/api/v1/nodes":
        return 200, {"items": [{"metadata": {"name": f"n{i}", "labels": n}} for i, n in enumerate(cluster.nodes)]}
    if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
        name = path.rpartition("/")[2]
        return (200, {"metadata": {"name": name}}) if name in cluster.namespaces else _missing(name)
    match = PATH.fullmatch(path)
    if match is None:
        return _missing(path)
    return _respond_object(cluster, verb, KINDS[match["kind"]], match, query, body)


def _respond_object(
    cluster: Cluster, verb: str, kind: str, match: re.Match[str], query: dict[str, list[str]], body: Any
) -> tuple[int, Any]:
    name, dry_run = match["name"], query.get("dryRun") == ["All"]
    if (verb, kind) in cluster.refuses and not dry_run:
        status = cluster.refuses[verb, kind]
        return status, _status(status, f"{verb} {kind} is not for you")
    if verb == "create":
        assert query["fieldValidation"] == ["Strict"]
        return cluster.create(body, dry_run=dry_run)
    if name is None:
        selector = query.get("labelSelector", [""])[0]
        if kind == "Pod":
            return 200, {"items": cluster.pods(selector)}
        key, _, value = selector.partition("=")
        found = [n for (k, n), m in cluster.objects.items() if k == kind and m["metadata"]["labels"].get(key) == value]
        return 200, {"items": [cluster.read(kind, n) for n in found]}
    if match["log"]:
        return 200, cluster.log(name)
    if verb == "delete":
        gone = cluster.delete(kind, name)
        return (200, gone) if gone is not None else _missing(name)
    there = cluster.read(kind, name)
    if there is None:
        return _missing(name)
    if verb == "patch":
        cluster.objects[kind, name]["metadata"].update(body["metadata"])
    return 200, there


def _missing(name: str) -> tuple[int, Manifest]:
    return 404, _status(404, f"{name} not found")


def _status(code: int, message: str) -> Manifest:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
