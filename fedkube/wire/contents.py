"""Reading a ``Content`` as it travels: what it refers to, its values, how its arrays look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb

_LISTS = ("reals", "integers", "booleans", "texts", "datas")


def references(content: pb.Content) -> list[pb.Array | pb.Value]:
    """Every entry that refers to a blob."""
    found: list[pb.Array | pb.Value] = []
    for record in content.records:
        kind = record.WhichOneof("kind")
        if kind == "arrays":
            found += record.arrays.items
        elif kind is not None:
            values = record.metrics if kind == "metrics" else record.configs
            found += [value for value in values.items if value.WhichOneof("kind") == "blob"]
    return found


def renumber(content: pb.Content, new: Callable[[int], int]) -> None:
    """Change the blob numbers in place."""
    for entry in references(content):
        entry.blob = new(entry.blob)


def encoded(content: pb.Content) -> bytes:
    """The content as bytes; the same content always gives the same."""
    return content.SerializeToString(deterministic=True)


def get_value(entry: pb.Value) -> Any:
    """The value of an entry that is no blob."""
    kind = entry.WhichOneof("kind")
    if kind is None:
        raise Rejected(f"value {entry.key!r} is empty")
    value = getattr(entry, kind)
    return list(value.items) if kind in _LISTS else value


def array_records(content: pb.Content) -> list[pb.Arrays]:
    """The records that hold arrays, in their order."""
    return [each.arrays for each in content.records if each.WhichOneof("kind") == "arrays"]


def shapes(arrays: pb.Arrays) -> dict[str, tuple[int, ...]]:
    """Name to shape; Rejected where a name comes twice."""
    described: dict[str, tuple[int, ...]] = {}
    for item in arrays.items:
        if item.name in described:
            raise Rejected(f"the name {item.name!r} comes twice")
        described[item.name] = tuple(item.shape)
    return described


def metrics(content: pb.Content) -> dict[str, object]:
    """All metric records' values in one."""
    merged: dict[str, object] = {}
    for record in content.records:
        if record.WhichOneof("kind") == "metrics":
            for entry in record.metrics.items:
                if entry.WhichOneof("kind") != "blob":
                    merged[entry.key] = get_value(entry)
    return merged
