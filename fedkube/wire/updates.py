"""Updates as they travel: whether one may count, by its description and by its bytes.

The same rules hold wherever an update is summed, in the server or in a worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedkube.core.admission import Expected
from fedkube.core.admission import refusal as refused_by
from fedkube.core.errors import Rejected
from fedkube.core.partial_sums import TensorSum
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import contents, tensors

# How Flower names arrays whose elements are known.
NUMPY = "numpy.ndarray"


def refusal(
    expected: Expected,
    content: pb.Content,
    metrics: Mapping[str, object],
    blobs: Sequence[pb.Blob],
) -> str | None:
    """Why an update must not be summed, as far as its description tells, or None.

    ``metrics``: the content's.
    """
    records = contents.array_records(content)
    for record in records:
        for item in record.items:
            if item.opaque or item.stype != NUMPY:
                return f"array {item.name!r} is not serialised as NumPy's, so it cannot be averaged"
    described = [contents.shapes(record) for record in records]
    reason = refused_by(expected, described, metrics, None)
    return reason or _sizes_differ(records[0].items, blobs)


def arrays(content: pb.Content) -> Sequence[pb.Array]:
    """The arrays of an update that was not refused: those of its one record of arrays."""
    return contents.array_records(content)[0].items


def unfit(name: str, magnitudes: Iterable[float], weight: float) -> str | None:
    """Why an array must not be summed, by the largest magnitudes of its blocks, or None."""
    for magnitude in magnitudes:
        if not math.isfinite(magnitude):
            return f"array {name!r} holds NaN or infinity"
        if not TensorSum.holds(weight * magnitude):
            return f"array {name!r} holds values that are too large to be summed"
    return None


def weight(metrics: Mapping[str, object], key: str) -> float:
    """What an update with these metrics that was not refused counts in the mean."""
    value = metrics[key]
    assert isinstance(value, int | float), "an update without a weight was refused"
    return float(value)


def hold(outcome: pb.Outcome) -> None:
    """The arrays go out of an outcome: they are in a sum."""
    for record in contents.array_records(outcome.content):
        del record.items[:]
        record.held = True
    outcome.held = True


def describe(entry: pb.SumTensor, sums: TensorSum, frame: pb.Sum) -> list[memoryview]:
    """Describe what was summed of a tensor, in a blob of its own; its bytes, in pieces."""
    pieces = []
    for part in sums.parts():
        entry.blocks.append(part.block)
        entry.bins.append(part.bin)
        pieces.append(part.values.view(np.uint8).data)
    entry.blob = len(frame.blobs)
    frame.blobs.add(nbytes=sum(map(len, pieces)))
    return pieces


def _sizes_differ(items: Iterable[pb.Array], blobs: Sequence[pb.Blob]) -> str | None:
    for item in items:
        if item.blob >= len(blobs):
            raise Rejected(f"there is no blob {item.blob}: {len(blobs)} came")
        nbytes = tensors.nbytes(item.dtype, item.shape)
        if item.compression:
            continue  # see ``packed``
        if blobs[item.blob].nbytes != nbytes:
            return f"array {item.name!r} takes {nbytes} bytes, and another number was announced"
    return None
