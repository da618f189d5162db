"""Objects against the schemas of Kubernetes releases, where an unknown field is an error."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

# What users run, as far as there are schemas of it.
VERSIONS = [
    version
    for version in dict.fromkeys(all_versions())  # which has each of them twice
    if tuple(int(part) for part in version.split(".")[:2]) >= (1, 28)
]


def complaints(body: dict[str, Any], version: str) -> list[str]:
    """What is wrong with an object, by field; KeyError where the release does not have the kind."""
    validator = _validator(body["kind"], body["apiVersion"], version)
    return sorted(f"{error.json_path}: {error.message}" for error in validator.iter_errors(body))


# kubernetes_validate.validate() does the same, and reads all definitions anew for each object.
@cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    name = f"kubernetes-json-schema/v{version}-local-strict/{kind.lower()}-{group}.json"
    try:
        schema = schema_contents(name, version)
    except FileNotFoundError:
        raise KeyError(f"Kubernetes {version} has no {kind} of {api_version}") from None
    resource: Resource[Any] = Resource.from_contents(schema)
    return jsonschema.Draft202012Validator(schema, registry=resource @ _definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    path = f"kubernetes-json-schema/v{version}-local-strict/_definitions.json"
    resource: Resource[Any] = Resource.from_contents(schema_contents(path, version))
    return resource @ Registry()
