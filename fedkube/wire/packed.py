"""Compressed arrays as they travel: what describes one, and whether it may be unpacked.

The same rules hold wherever one is unpacked, in the server or in a worker that sums.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import levels_of
from fedkube.core.quantisation import DTYPES, Compression, packed_bytes, restore
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, tensors

KINDS: dict[int, Compression] = {
    pb.COMPRESSION_BF16: Compression.BF16,
    pb.COMPRESSION_INT8: Compression.INT8,
}
NUMBERS: dict[Compression, pb.Compression] = {
    Compression.NONE: pb.COMPRESSION_NONE,
    Compression.BF16: pb.COMPRESSION_BF16,
    Compression.INT8: pb.COMPRESSION_INT8,
}


def arrays(content: pb.Content) -> list[pb.Array]:
    """All arrays, in the order in which a ``base`` counts them."""
    return [item for record in contents.array_records(content) for item in record.items]


def packed(content: pb.Content) -> list[pb.Array]:
    """The arrays that are compressed."""
    return [item for item in arrays(content) if item.compression]


def kind_of(item: pb.Array) -> Compression:
    """How an array is compressed that was not refused."""
    return KINDS[item.compression]


def base_of(item: pb.Array, sent: Sequence[pb.Array]) -> pb.Array | None:
    """Which of the message's arrays it is the difference to, of an array that was not refused."""
    return sent[item.base] if item.HasField("base") else None


def replace(item: pb.Array, blob: int) -> None:
    """Describe an array as one that is not compressed, and is in this blob."""
    item.blob = blob
    item.ClearField("compression")
    item.ClearField("base")


def restored(item: pb.Array, data: memoryview, base: memoryview | None) -> memoryview:
    """The bytes of an array that was not refused; Rejected where its own are no encoding."""
    dtype = tensors.DTYPES[item.dtype]
    size = math.prod(item.shape)
    whole = slice(0, size)
    values = restore(
        kind_of(item),
        lambda offset, nbytes: data[offset : offset + nbytes],
        size,
        whole,
        None if base is None else np.frombuffer(base, dtype),
        dtype,
    )
    return values.view(np.uint8).data


def refusal(task: pb.Task, outcome: pb.Outcome, blobs: Sequence[pb.Blob]) -> str | None:
    """Why an outcome's compressed arrays must not be unpacked, or None. Needs no bytes."""
    if packed(outcome.state):
        return "the client's state holds a compressed array"
    items = packed(outcome.content)
    if not items:
        return None
    sent = arrays(task.content)
    both = (outcome.content, outcome.state)
    used = Counter(entry.blob for each in both for entry in contents.references(each))
    for item in items:
        reason = _unfit(task, item, sent, blobs)
        if reason is not None:
            return f"array {item.name!r} {reason}"
        if used[item.blob] > 1:
            # What is unpacked is larger than what came: it must not be so many times.
            return f"array {item.name!r} is compressed, and shares its bytes with something else"
    return None


def _unfit(
    task: pb.Task, item: pb.Array, sent: Sequence[pb.Array], blobs: Sequence[pb.Blob]
) -> str | None:
    kind = KINDS.get(item.compression)
    if kind is None or item.compression != task.compression:
        return "is compressed in a way that was not asked for"
    if item.opaque:
        return "is compressed, and hides its elements"
    if item.dtype not in DTYPES:
        return f"is compressed, and of element type {item.dtype!r}: only {' and '.join(DTYPES)} are"
    try:
        tensors.nbytes(item.dtype, item.shape)
    except Rejected as error:
        return f"is no tensor: {error.message}"
    if item.HasField("base"):
        if item.base >= len(sent):
            return f"is the difference to array {item.base} of a message that has {len(sent)}"
        base = sent[item.base]
        if base.opaque or (base.dtype, list(base.shape)) != (item.dtype, list(item.shape)):
            return f"is the difference to {base.name!r}, which has another type or shape"
    if item.blob >= len(blobs):
        return f"is in blob {item.blob}, and {len(blobs)} came"
    nbytes = packed_bytes(kind, math.prod(item.shape))
    if blobs[item.blob].nbytes != nbytes:
        return f"takes {nbytes} bytes as {kind}, and another number was announced"
    return None


def sums_pay(content: pb.Content, kind: Compression, updates: int, workers: int) -> bool:
    """Whether a sum from each worker is fewer bytes than each client's update, sent like that.

    A sum takes 8 bytes an element (16 for float64), whatever the number of its updates.
    """
    sums = each = 0
    for item in arrays(content):
        if item.opaque:
            continue  # never in a sum
        size = math.prod(item.shape)
        sums += 8 * size * levels_of(tensors.DTYPES[item.dtype])
        compressed = kind is not Compression.NONE and item.dtype in DTYPES
        each += packed_bytes(kind, size) if compressed else tensors.nbytes(item.dtype, item.shape)
    return sums * workers < each * updates
