"""FederatedRun objects in a file, checked field by field before a cluster hears of them."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedkube.api.v1alpha1 import FederatedRunSpec
from fedkube.api.v1alpha1 import federated_run as api
from fedkube.core.errors import Usage

Object = dict[str, Any]

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
# What Kubernetes adds to a generateName.
_ADDED = 5
_TOP = ("apiVersion", "kind", "metadata", "spec")
# What an object that was read from a cluster has on it, and a new one may not have.
_THE_CLUSTERS = (
    "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink",
)  # fmt: skip
# Where a value may be of several types, pydantic says what is wrong for each.
_TYPES = {"bool", "int", "float", "str"}


def read(path: str) -> list[Object]:
    """The objects of a YAML or JSON file, ``-`` for stdin; Usage with a line for each fault."""
    bodies = list(_bodies(path))
    if not bodies:
        raise Usage(f"{_named(path)} has no object in it", hint=f"write a {api.KIND}, or several")
    found = []
    for number, body in enumerate(bodies, 1):
        where = f"{_named(path)}, object {number}" if len(bodies) > 1 else _named(path)
        if said := faults(body):
            raise Usage(f"{where}: {said[0]}", details="\n".join(said[1:]))
        found.append(_cleaned(body))
    return found


def faults(body: Any) -> list[str]:
    """What is wrong with an object; a sentence for each field."""
    if not isinstance(body, dict):
        return [f"it is a {type(body).__name__}, and no object"]
    kind = (body.get("apiVersion"), body.get("kind"))
    if kind != (api.API_VERSION, api.KIND):
        given = " ".join(str(each) for each in kind if each is not None) or "nothing"
        return [
            f"apiVersion and kind: {api.API_VERSION} {api.KIND} is wanted, and {given} is there "
            "(other objects: kubectl apply -f)"
        ]
    said = [
        f"{key}: there is no such field{_close(key, _TOP)}"
        for key in body
        if key not in (*_TOP, "status")
    ]
    said += _of_metadata(body.get("metadata"))
    if "spec" not in body:
        return [*said, "spec: it is missing"]
    return said + _of_spec(body["spec"])


def _of_metadata(metadata: Any) -> list[str]:
    if not isinstance(metadata, dict):
        return ["metadata: it is missing, and a run needs a name"]
    name, prefix = metadata.get("name"), metadata.get("generateName")
    said = []
    if name is None and prefix is None:
        said.append("metadata.name: it is missing (or give a generateName)")
    elif name is None and (
        not isinstance(prefix, str)
        or not _LABEL.match(prefix.rstrip("-"))
        or len(prefix) + _ADDED > api.MAX_NAME
    ):
        said.append(f"metadata.generateName: {prefix!r} does not begin a name of a run")
    elif name is not None and (
        not isinstance(name, str) or not _LABEL.match(name) or len(name) > api.MAX_NAME
    ):
        said.append(
            f"metadata.name: {name!r} is no name of a run: at most {api.MAX_NAME} of a-z, 0-9 "
            "and -, and none of the - at an end"
        )
    space = metadata.get("namespace")
    if space is not None and (not isinstance(space, str) or not _LABEL.match(space)):
        said.append(f"metadata.namespace: {space!r} is no name of a namespace")
    return said


def _of_spec(spec: Any) -> list[str]:
    try:
        FederatedRunSpec.model_validate(spec)
    except ValidationError as error:
        by_field: dict[str, list[str]] = {}
        for each in error.errors(include_url=False):
            where = [str(part) for part in each["loc"]]
            if where and where[-1] in _TYPES:
                where.pop()
            by_field.setdefault(".".join(["spec", *where]), []).append(_words(each, where))
        return [f"{field}: {' or '.join(words)}" for field, words in by_field.items()]
    return []


def _words(error: Any, where: list[str]) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no such field{_close(where[-1], _fields(where[:-1]))}"
    if error["type"] == "missing":
        return "it is missing"
    words = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    given = error["input"]
    scalar = isinstance(given, bool | int | float | str)
    return f"{words}, and is {given!r}" if scalar and "must be" in words else words


def _close(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _fields(where: list[str]) -> list[str]:
    """The fields that the spec has at a place."""
    schema = FederatedRunSpec.model_json_schema()

    def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
        for each in (part, *part.get("anyOf", [])):
            if "$ref" in each:
                found: Mapping[str, Any] = schema["$defs"][each["$ref"].rpartition("/")[2]]
                return found
        return part

    here: Mapping[str, Any] = schema
    for name in where:
        here = resolved(here.get("items" if name.isdigit() else "properties", {}))
        here = here if name.isdigit() else resolved(here.get(name, {}))
    return list(here.get("properties", {}))


def _cleaned(body: Object) -> Object:
    metadata = {
        name: value for name, value in body["metadata"].items() if name not in _THE_CLUSTERS
    }
    return {"apiVersion": api.API_VERSION, "kind": api.KIND} | {
        "metadata": metadata,
        "spec": body["spec"],
    }


def documents(path: str) -> list[Any]:
    """All objects of a YAML or JSON file, those of lists one by one."""
    return list(_bodies(path))


def _bodies(path: str) -> Iterator[Any]:
    for body in _documents(path):
        # What `kubectl get -o yaml` prints of several objects.
        if isinstance(body, dict) and body.get("kind") == "List":
            yield from body.get("items") or []
        elif body is not None:
            yield body


def _documents(path: str) -> list[Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return list(yaml.safe_load_all(text))
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Usage(f"{_named(path)} is no text file") from None
    except yaml.YAMLError as error:
        raise Usage(f"{_named(path)} is neither YAML nor JSON: {error}") from None


def _named(path: str) -> str:
    return "stdin" if path == "-" else path
