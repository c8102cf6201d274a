"""Kubernetes' own validation without a server: strict structural schemas, CEL rules, list keys, core objects."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import yaml
from celpy.adapter import json_to_cel

Manifest = dict[str, Any]
CORE_VERSION = "1.34"
KUEUE = "kueue.x-k8s.io"


class CustomResource:
    """One custom resource definition, version v1, as the API server holds objects against it."""

    def __init__(self, file: Path) -> None:
        with gzip.open(file) as opened:
            definition = yaml.load(opened, Loader=yaml.CSafeLoader)
        (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        self.schema = version["schema"]["openAPIV3Schema"]
        self.validator = jsonschema.Draft7Validator(_strict(self.schema))

    def problems(self, manifest: Manifest) -> list[str]:
        found = [f"{error.json_path}: {error.message[:200]}" for error in self.validator.iter_errors(manifest)]
        return found or list(_rules(self.schema, manifest, "$"))


class Schemas:
    """Every kind that the manifests use."""

    def __init__(self, folder: Path) -> None:
        self.custom = {
            "RayCluster": CustomResource(folder / "ray.io_rayclusters.yaml.gz"),
            "RayJob": CustomResource(folder / "ray.io_rayjobs.yaml.gz"),
        }

    def problems(self, manifest: Manifest) -> list[str]:
        """What a server would refuse; nothing is known of Kueue's schemas here."""
        kind = manifest["kind"]
        if manifest["apiVersion"].startswith(KUEUE):
            return []
        if kind in self.custom:
            wrong = manifest["apiVersion"] != "ray.io/v1"
            return [f"apiVersion {manifest['apiVersion']}"] if wrong else self.custom[kind].problems(manifest)
        try:
            kubernetes_validate.validate(manifest, CORE_VERSION, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            return [f"{kind}: {error.message[:200]}"]
        return []


def _strict(node: Any) -> Any:
    """JSON schema of a structural schema: unknown fields are errors, as with fieldValidation=Strict."""
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": node["pattern"]} if "pattern" in node else {})}
    schema = {key: value for key, value in node.items() if not key.startswith("x-")}
    if "properties" in schema:
        properties = schema["properties"]
        schema["properties"] = {name: _strict(part) for name, part in properties.items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
        if "required" in schema:
            schema["required"] = [name for name in schema["required"] if "default" not in properties.get(name, {})]
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
        if key in schema and key != "properties":
            schema[key] = _strict(schema[key])
    if node.get("nullable") and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def _rules(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    """Broken CEL rules and repeated list keys. Rules on changes (oldSelf) say nothing of a new object."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _program(rule["rule"]).evaluate({"self": json_to_cel(value)}):
            yield f"{path}: {rule['message']}"
    if isinstance(value, dict):
        for name, inner in value.items():
            part = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(part, Mapping):
                yield from _rules(part, inner, f"{path}.{name}")
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            seen = [tuple(str(item.get(key)) for key in keys) for item in value]
            yield from (f"{path}: {key} is there twice" for key in sorted({k for k in seen if seen.count(k) > 1}))
        for number, item in enumerate(value):
            yield from _rules(schema.get("items", {}), item, f"{path}[{number}]")


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
