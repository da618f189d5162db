"""Walking through a ``Content``: which blobs it refers to, and by what numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedkube.proto.v1 import exchange_pb2 as pb


def references(content: pb.Content) -> Iterator[pb.Array | pb.Value]:
    """Every entry that refers to a blob."""
    for record in content.records:
        yield from record.arrays.items
        for values in (record.metrics, record.configs):
            yield from (value for value in values.items if value.WhichOneof("kind") == "blob")


def renumber(content: pb.Content, new: Callable[[int], int]) -> None:
    """Change the blob numbers in place."""
    for entry in references(content):
        entry.blob = new(entry.blob)
