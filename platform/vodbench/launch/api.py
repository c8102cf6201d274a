"""The Kubernetes API as a launch needs it; what it refuses becomes one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vodbench.errors import UserError, nearest

Manifest = dict[str, Any]
TIMEOUT_S = (5, 30)  # to connect, to answer
RAY = ("ray.io", "v1")
JOBS = "rayjobs"
NOT_FOUND, CONFLICT = 404, 409


class RefusedError(UserError):
    """The API server refused a request; ``status`` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Kubernetes:
    """One namespace of the cluster that a kubeconfig context names.

    Raises ``UserError``: no package, no kubeconfig, no such context, no answer; ``RefusedError`` for what the server
    says no to. No call waits longer than ``TIMEOUT_S``.
    """

    def __init__(self, context: str | None, namespace: str) -> None:
        self.context, self.namespace = _known_context(context), namespace
        from kubernetes import client, config

        api = config.new_client_from_config(config_file=_kubeconfig(), context=self.context)
        api.configuration.retries = False
        self.host: str = api.configuration.host
        self._core, self._policy = client.CoreV1Api(api), client.PolicyV1Api(api)
        self._custom, self._version = client.CustomObjectsApi(api), client.VersionApi(api)

    def reach(self) -> None:
        self._ask("the cluster", self._version.get_code)

    def has_operator(self) -> bool:
        """Whether the API server knows RayJobs."""
        found = self._optional("RayJob", self._custom.get_api_resources, *RAY)
        return found is not None and JOBS in {resource.name for resource in found.resources}

    def has_namespace(self) -> bool:
        return self._optional("namespace", self._core.read_namespace, self.namespace) is not None

    def secret_keys(self, name: str) -> set[str] | None:
        """None when there is no such Secret."""
        secret = self._optional(f"Secret {name}", self._core.read_namespaced_secret, name, self.namespace)
        return None if secret is None else set(secret.data or ())

    def node_labels(self) -> list[dict[str, str]]:
        return [node.metadata.labels or {} for node in self._ask("nodes", self._core.list_node).items]

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Create an object, or with ``dry_run`` have the server say whether it would."""
        options: dict[str, Any] = {"field_validation": "Strict", **({"dry_run": "All"} if dry_run else {})}
        make = {
            "ConfigMap": self._core.create_namespaced_config_map,
            "Pod": self._core.create_namespaced_pod,
            "PodDisruptionBudget": self._policy.create_namespaced_pod_disruption_budget,
        }
        what, kind = f"{manifest['kind']} {manifest['metadata']['name']}", manifest["kind"]
        if kind == "RayJob":
            call = self._custom.create_namespaced_custom_object
            made: Manifest = self._ask(what, call, *RAY, self.namespace, JOBS, manifest, **options)
            return made
        typed = self._ask(what, make[kind], self.namespace, manifest, **options)
        return {"metadata": {"name": typed.metadata.name, "uid": typed.metadata.uid}}

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what belongs to it, if it is there."""
        remove = {
            "ConfigMap": self._core.delete_namespaced_config_map,
            "Pod": self._core.delete_namespaced_pod,
            "PodDisruptionBudget": self._policy.delete_namespaced_pod_disruption_budget,
        }
        options = {"propagation_policy": "Background"}
        if kind == "RayJob":
            call = self._custom.delete_namespaced_custom_object
            self._optional(f"RayJob {name}", call, *RAY, self.namespace, JOBS, name, **options)
        else:
            self._optional(f"{kind} {name}", remove[kind], name, self.namespace, **options)

    def adopt(self, kind: str, name: str, owner: Manifest) -> None:
        """Have an object go when its owner goes."""
        patch = {
            "ConfigMap": self._core.patch_namespaced_config_map,
            "PodDisruptionBudget": self._policy.patch_namespaced_pod_disruption_budget,
        }
        reference = {
            "apiVersion": "/".join(RAY),
            "kind": "RayJob",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        body = {"metadata": {"ownerReferences": [reference]}}
        self._ask(f"{kind} {name}", patch[kind], name, self.namespace, body)

    def job(self, name: str) -> Manifest | None:
        call = self._custom.get_namespaced_custom_object
        found: Manifest | None = self._optional(f"RayJob {name}", call, *RAY, self.namespace, JOBS, name)
        return found

    def jobs(self, selector: str) -> list[Manifest]:
        call = self._custom.list_namespaced_custom_object
        found: list[Manifest] = self._ask("RayJobs", call, *RAY, self.namespace, JOBS, label_selector=selector)["items"]
        return found

    def pod(self, name: str) -> Any:
        """None when there is no such pod."""
        return self._optional(f"pod {name}", self._core.read_namespaced_pod, name, self.namespace)

    def pods(self, selector: str) -> list[Any]:
        """Oldest first."""
        found = self._ask("pods", self._core.list_namespaced_pod, self.namespace, label_selector=selector).items
        return sorted(found, key=lambda pod: str(pod.metadata.creation_timestamp))

    def log(self, pod: str) -> str:
        text: str = self._ask(f"the log of pod {pod}", self._core.read_namespaced_pod_log, pod, self.namespace) or ""
        return text

    def _optional(self, what: str, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
        try:
            return self._ask(what, call, *given, **options)
        except RefusedError as refused:
            if refused.status == NOT_FOUND:
                return None
            raise

    def _ask(self, what: str, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
        with _refusals(what, self.context, self.host):
            return call(*given, **options, _request_timeout=TIMEOUT_S)


def _known_context(context: str | None) -> str:
    try:
        from kubernetes import config
    except ImportError:
        raise UserError(
            "launching with --context needs the package kubernetes: pip install 'vodbench[kubernetes]', or give "
            "--ray-address"
        ) from None
    try:
        found, _ = config.list_kube_config_contexts(_kubeconfig())
    except config.ConfigException as error:
        raise UserError(f"no kubeconfig can be read ({error}); set KUBECONFIG to your cluster's") from None
    names = [entry["name"] for entry in found]
    if context is None:
        raise UserError(f"no context is given; give --context, one of: {', '.join(sorted(names)) or 'none'}")
    if context not in names:
        raise UserError(f"unknown context '{context}': {nearest(context, names)}; see 'kubectl config get-contexts'")
    return context


def _kubeconfig() -> str | None:
    """The client reads the variable once, when it is imported."""
    return os.environ.get("KUBECONFIG") or None


@contextmanager
def _refusals(what: str, context: str, host: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        status = int(error.status or 0)
        hint = {
            401: "; log in to the cluster again",
            403: "; ask for the right to it (see docs/kubernetes.md)",
        }.get(status, "")
        reason = f"context '{context}' refuses {what}: {_message(error)} ({status}){hint}"
        raise RefusedError(reason, status) from None
    except HTTPError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"the cluster of context '{context}' does not answer at {host} ({reason}); start it, connect to its "
            "network, or give another --context"
        ) from None


def _message(error: Any) -> str:
    """The server's own words; the client's error prints headers too."""
    try:
        return " ".join(str(json.loads(error.body)["message"]).split())
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
