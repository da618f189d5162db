"""The CustomResourceDefinition, made from the models: ``python -m fedkube.api.crd [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from fedkube.api.v1alpha1 import federated_run as api

_CHART = Path(__file__).parents[2] / "helm" / "fedkube" / "files" / "crds.yaml"
# Keywords that a structural schema has, and means as JSON Schema does.
_KEPT = (
    "type", "description", "default", "enum", "format", "pattern", "minimum", "maximum",
    "minLength", "maxLength", "minItems", "maxItems", "required",
)  # fmt: skip


def definition() -> dict[str, Any]:
    """The whole object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{api.PLURAL}.{api.GROUP}"},
        "spec": {
            "group": api.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": api.KIND,
                "listKind": f"{api.KIND}List",
                "plural": api.PLURAL,
                "singular": api.KIND.lower(),
                "shortNames": ["fedrun", "fedruns"],
            },
            "versions": [
                {
                    "name": api.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path}
                        for name, kind, path in api.PRINTER_COLUMNS
                    ],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def _root() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "One federated run of one Flower app.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": api.MAX_NAME}},
            },
            "spec": structural(api.FederatedRunSpec),
            # What is in a status was written by the coordinator: all of it is optional.
            "status": _optional(structural(api.FederatedRunStatus)),
        },
    }


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema as Kubernetes takes it: no references, no alternatives, no titles."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _convert({**target, **beside}, definitions)
    if "anyOf" in schema:
        return _alternatives(schema, definitions)
    found = {key: schema[key] for key in _KEPT if key in schema}
    if found.get("default", 0) is None or found.get("default") == "":
        del found["default"]
    # Kubernetes knows exclusive bounds as flags.
    for limit, word in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if word in schema:
            # 2**63 does not fit into the API server's numbers.
            bound = min(schema[word], 2**53)
            found |= {limit: bound, word: True}
    if schema.get("type") == "integer":
        found["format"] = "int64"
    if "items" in schema:
        found["items"] = _convert(schema["items"], definitions)
    if "properties" in schema:
        found["properties"] = {
            name: _convert(each, definitions) for name, each in schema["properties"].items()
        }
    elif schema.get("type") == "object":
        values = schema.get("additionalProperties")
        if isinstance(values, dict):
            found["additionalProperties"] = _convert(values, definitions)
        else:
            found["x-kubernetes-preserve-unknown-fields"] = True
    return found


def _alternatives(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Null beside one type, or scalars of several types."""
    words = ("description", "default")
    beside: dict[str, Any] = {key: schema[key] for key in words if key in schema}
    if beside.get("default", 0) is None:
        del beside["default"]
    types = [each for each in schema["anyOf"] if each.get("type") != "null"]
    if len(types) == 1:
        return {**_convert({**types[0], **beside}, definitions), "nullable": True}
    if {each["type"] for each in types} == {"integer", "string"}:
        return {**beside, "x-kubernetes-int-or-string": True}
    # A structural schema cannot say "a scalar"; the coordinator does.
    return {**beside, "x-kubernetes-preserve-unknown-fields": True}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in schema.items() if key not in ("required", "default")}
    if "properties" in found:
        found["properties"] = {key: _optional(each) for key, each in found["properties"].items()}
    if "items" in found:
        found["items"] = _optional(found["items"])
    return found


def main() -> None:
    """Write the chart's copy, or say whether it is up to date."""
    text = "# Made by `make crd` from fedkube/api.\n" + yaml.safe_dump(
        definition(), sort_keys=False, width=100
    )
    if "--check" in sys.argv[1:]:
        if not _CHART.exists() or _CHART.read_text(encoding="utf-8") != text:
            sys.exit(f"{_CHART.name} is not what the models say: run `make crd`")
        return
    _CHART.parent.mkdir(parents=True, exist_ok=True)
    _CHART.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
